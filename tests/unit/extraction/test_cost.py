"""What a plan costs, on numbers that can be worked out by hand."""

from dataclasses import replace
from math import inf, isinf
from pathlib import Path

import pytest

from kd_ray.cache.codecs import Coding
from kd_ray.config.rates import load_rates
from kd_ray.errors import RecipeError
from kd_ray.extraction.alternatives import alternatives
from kd_ray.extraction.cost import (
    BreakEven,
    TargetVolume,
    ViewCost,
    accelerator_cost,
    break_even,
    extraction_seconds_per_view,
    student_epoch_seconds,
    teacher_idle_share,
)

COST = ViewCost(decode_s=0.004, render_s=0.001, teacher_s=0.010, teacher_cpu_s=0.010, write_s=0.0, read_s=0.0)
VOLUME = TargetVolume(
    teacher="teacher",
    views_of="train (policy)",
    is_training=True,
    num_views=400,
    num_missing_views=100,
    num_units=5,
    codings={
        "spatial": Coding(codec="float16", shape=(4, 4, 8)),
        "logits": Coding(codec="float32", shape=(1000,)),
    },
)


def test_bytes_are_those_of_the_codecs() -> None:
    per_view = 4 * 4 * 8 * 2 + 1000 * 4
    assert (VOLUME.num_bytes, VOLUME.num_missing_bytes) == (400 * per_view, 100 * per_view)


class TestExtraction:
    def test_the_slowest_of_threads_teacher_and_cores_decides(self) -> None:
        def seconds(cost: ViewCost, *, num_threads: int = 1, num_cores: float = 64, num_workers: int = 1) -> float:
            return extraction_seconds_per_view(
                cost, views_per_decode=4, num_threads=num_threads, num_cores=num_cores, num_workers=num_workers
            )

        # a quarter of the decoding and the rendering, 2 ms, fit behind the teacher
        assert seconds(COST) == pytest.approx(0.010)
        slow_to_render = replace(COST, render_s=0.029)
        assert seconds(slow_to_render) == pytest.approx(0.030)
        assert seconds(slow_to_render, num_threads=3) == pytest.approx(0.010)
        # on one core nothing overlaps, and two workers share it
        assert seconds(COST, num_cores=1) == pytest.approx(0.012)
        assert seconds(COST, num_cores=1, num_workers=2) == pytest.approx(0.024)
        assert seconds(replace(COST, write_s=0.005)) == pytest.approx(0.015)

    def test_a_teacher_waits_while_views_are_made(self) -> None:
        assert teacher_idle_share(COST, seconds_per_view=0.040) == pytest.approx(0.75)
        assert teacher_idle_share(COST, seconds_per_view=0.010) == 0

    def test_hours_and_price(self) -> None:
        cost = accelerator_cost("t", "L4", num_views=7_200_000, views_per_s=1000, price_per_hour=0.7)
        assert (cost.hours, cost.price) == (pytest.approx(2.0), pytest.approx(1.4))
        assert accelerator_cost("t", "L4", num_views=1, views_per_s=1, price_per_hour=None).price is None


class TestBreakEven:
    def test_a_free_pipeline_pays_after_as_many_epochs_as_there_are_views(self) -> None:
        """Design: cached cost = views x teacher + students x epochs x (decode + student)."""
        teacher_alone = ViewCost(decode_s=0, render_s=0, teacher_s=0.010, teacher_cpu_s=0.010, write_s=0, read_s=0)
        found = break_even(
            [VOLUME], {"teacher": teacher_alone}, views_per_epoch=100, views_per_decode=4, planned_student_epochs=4
        )
        assert found.student_epochs == pytest.approx(4.0)
        assert not found.pays  # one student with a fresh view in every epoch
        assert replace(found, planned_student_epochs=4.1).pays

    def test_decoding_and_writing_delay_it_and_reading_more_so(self) -> None:
        dear = replace(COST, write_s=0.003, read_s=0.001)
        found = break_even(
            [VOLUME], {"teacher": dear}, views_per_epoch=100, views_per_decode=4, planned_student_epochs=1
        )
        assert found.extraction_s == pytest.approx(400 * (0.001 + 0.001 + 0.010 + 0.003))
        assert found.saved_s_per_epoch == pytest.approx(100 * (0.001 + 0.010 - 0.001))
        assert found.student_epochs == pytest.approx(6.0)

    def test_a_target_as_dear_to_read_as_to_compute_never_pays(self) -> None:
        found = break_even(
            [VOLUME],
            {"teacher": replace(COST, read_s=0.011)},
            views_per_epoch=100,
            views_per_decode=4,
            planned_student_epochs=10**6,
        )
        assert isinf(found.student_epochs)
        assert not found.pays
        assert BreakEven(extraction_s=1, saved_s_per_epoch=-1, planned_student_epochs=1).student_epochs == inf

    def test_views_of_evaluation_are_not_paid_back(self) -> None:
        evaluation = replace(VOLUME, is_training=False)
        costs = {"teacher": COST}
        one, both = (
            break_even(volumes, costs, views_per_epoch=100, views_per_decode=4, planned_student_epochs=1)
            for volumes in ([VOLUME], [VOLUME, evaluation])
        )
        assert one == both


def test_an_epoch_overlaps_with_its_batches() -> None:
    def seconds(step_s: float, prepare_s: float, threads: int) -> float:
        return student_epoch_seconds(
            num_images=1000, step_s_per_image=step_s, prepare_s_per_image=prepare_s, num_threads=threads, num_workers=2
        )

    assert seconds(0.004, 0.002, 1) == pytest.approx(2.0)
    assert seconds(0.004, 0.012, 1) == pytest.approx(6.0)
    assert seconds(0.004, 0.012, 4) == pytest.approx(2.0)


class TestAlternatives:
    def test_each_change_by_itself(self) -> None:
        found = alternatives([VOLUME], views_per_sample=4, seconds_per_view={"teacher": 36.0})
        base, half, int8, top_k, pooled = found
        assert (base.num_bytes, base.hours) == (VOLUME.num_bytes, pytest.approx(4.0))
        assert (half.num_views, half.num_bytes, half.hours) == (200, VOLUME.num_bytes // 2, pytest.approx(2.0))
        spatial, logits = 400 * 4 * 4 * 8, 400 * 4000
        assert int8.num_bytes == spatial + 400 * 16 * 2 + logits
        assert top_k.num_bytes == 2 * spatial + 400 * (10 * 4 + 4 + 3 * 4)
        assert pooled.num_bytes == 2 * spatial // 4 + logits
        assert {each.hours for each in (int8, top_k, pooled)} == {base.hours}

    def test_only_what_applies_and_no_hours_without_a_rate(self) -> None:
        few = replace(VOLUME, codings={"logits": Coding(codec="uint8", shape=(10,))})
        (base,) = alternatives([few], views_per_sample=1, seconds_per_view={})
        assert base.hours is None


class TestRates:
    def test_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "rates.yaml"
        path.write_text("accelerators: {L4: {views_per_s: {teacher: 310}, price_per_hour: 0.7}}")
        assert load_rates(path).accelerators["L4"].views_per_s == {"teacher": 310}

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("accelerators: {}", "none is named"),
            ("accelerators: {L4: {views_per_s: {teacher: 0}}}", "accelerators.L4.views_per_s.teacher: got 0"),
            ("accelerators: {L4: {views_per_second: 3}}", "Did you mean views_per_s?"),
            ("a: [", "is not valid YAML"),
        ],
    )
    def test_mistakes_are_told(self, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "rates.yaml"
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"rates\.yaml") as refused:
            load_rates(path)
        assert told in str(refused.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be read: No such file"):
            load_rates(tmp_path / "absent.yaml")
