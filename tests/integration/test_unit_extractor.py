"""One unit from packed bytes to committed targets: every value at its view and row, each forward pass once."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd_ray.cache.target_set import open_output
from kd_ray.cache.view_store import find_view_store
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.errors import ExtractionError, FingerprintMismatch
from kd_ray.extraction.job import build_extractor, build_renderer
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.extraction.unit import Seat, UnitExtractor
from kd_ray.models import build_model, save_weights
from kd_ray.storage import open_storage
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.views import View, draw, prove, render
from tests.support.tiny_world import (
    NUM_CLASSES,
    POLICY,
    TEACHER_SIZE_PX,
    VIEW_SEED,
    extract,
    files_below,
    images_of,
    plan_teacher,
    plan_views,
)

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
OUTPUTS = ("summary", "spatial", "logits")
NUM_VIEWS = 3


@pytest.fixture
def plan_for(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> Callable[..., TargetPlan]:
    """The plan of a cache below `tmp_path`, three views in blocks of two by default."""

    def plan(
        *,
        cache: str = "cache",
        num_views: int = NUM_VIEWS,
        unit_views: int = 2,
        outputs: tuple[str, ...] = OUTPUTS,
        teacher: KnownTeacher = tiny_teacher,
    ) -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path / cache, num_views=num_views, unit_views=unit_views, unit_row_groups=4)
        return plan_teacher(teacher, views, tiny_corpus, tmp_path / cache, outputs=outputs)

    return plan


class PixelTeacher:
    """A teacher whose outputs say which pixels it was given: 8x8 of them (over and over), and their mean colour."""

    def __init__(self) -> None:
        self.num_forwards = 0

    @staticmethod
    def outputs_of(pixels_BHWC: Pixels) -> dict[str, Values]:
        grid = np.tile(pixels_BHWC[:, 2::4, 2::4].astype(np.float32), 22)[..., :64]
        return {"spatial": grid, "logits": pixels_BHWC.mean(axis=(1, 2)).astype(np.float32)}

    def __call__(self, pixels_BHWC: Pixels) -> Mapping[str, Values]:
        self.num_forwards += len(pixels_BHWC)
        return self.outputs_of(pixels_BHWC)


def extractor_with(
    teacher: object, plan: TargetPlan, corpus: object, *, batch_size: int = 32, num_threads: int = 1
) -> UnitExtractor:
    """The extractor of `plan`, but with this teacher and corpus."""
    job = plan.job
    seat = Seat(
        teacher=teacher,  # type: ignore[arg-type]
        outputs={
            name: open_output(job.cache_uri, job.target_set, spec, create=True) for name, spec in job.outputs.items()
        },
        calibrating=job.calibrating,
        generations=job.generations,
    )
    return UnitExtractor(
        [seat],
        renderer=replace(build_renderer(job), corpus=corpus),
        num_threads=num_threads,
        batch_size=batch_size,
    )


def stored(plan: TargetPlan, corpus: PackedCorpus, name: str) -> dict[tuple[int, int], Values]:
    """What the cache gives for (sample, view)."""
    output = open_output(plan.job.cache_uri, plan.job.target_set, plan.job.outputs[name], create=False)
    found = {}
    for (span, view), commit in output.collection.pin(plan.view_set.units).items():
        ids = corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=()).sample_ids
        values = output.read(commit, view_index=view, sample_ids=ids)
        found |= {(sample_id, view): value for sample_id, value in zip(ids.tolist(), values, strict=True)}
    return found


def rendered(corpus: PackedCorpus, *, num_views: int) -> dict[tuple[int, int], Pixels]:
    """The views at the teacher's size, drawn and rendered one by one."""
    found = {}
    for sample_id, image in images_of(corpus).items():
        for view in range(num_views):
            params = draw(POLICY, seed=VIEW_SEED, sample_id=sample_id, view_index=view, image_size_px=image.shape[:2])
            found[sample_id, view] = render(image, params, size_px=TEACHER_SIZE_PX, interpolation="bicubic")
    return found


def forwards(plan: TargetPlan, *, attempt: str = "again") -> int:
    return sum(report.num_forwards for report in extract(plan, attempt=attempt))


class TestMapping:
    # batches smaller than a row's views, across rows, and larger than a unit
    @pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (7, 3), (1000, 1)])
    @pytest.mark.parametrize("unit_views", [1, 3])
    def test_every_view_of_every_sample_has_its_own_values(
        self, plan_for, tiny_corpus, batch_size: int, num_threads: int, unit_views: int
    ) -> None:
        plan = plan_for(unit_views=unit_views, outputs=("spatial", "logits"))
        teacher = PixelTeacher()
        extractor = extractor_with(teacher, plan, tiny_corpus, batch_size=batch_size, num_threads=num_threads)
        for unit in plan.missing:
            extractor(unit, attempt="a")
        views = rendered(tiny_corpus, num_views=NUM_VIEWS)
        assert teacher.num_forwards == len(views) == plan.forwards_missing
        for name in ("spatial", "logits"):
            found = stored(plan, tiny_corpus, name)
            assert found.keys() == views.keys()
            for key, pixels in views.items():
                np.testing.assert_array_equal(found[key], PixelTeacher.outputs_of(pixels[None])[name][0])

    def test_every_view_has_its_own_params_and_proof(self, plan_for, tiny_corpus) -> None:
        plan = plan_for()
        extract(plan)
        store = find_view_store(plan.job.cache_uri, plan.job.view_set)
        assert store is not None
        images = images_of(tiny_corpus)
        for (span, view), commit in store.collection.pin(plan.view_set.units).items():
            ids = tiny_corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=()).sample_ids.tolist()
            expected = []
            for sample_id in ids:
                image = images[sample_id]
                size_px = image.shape[:2]
                params = draw(POLICY, seed=VIEW_SEED, sample_id=sample_id, view_index=view, image_size_px=size_px)
                expected.append(prove(View(params=params, image_HW3=image), policy=POLICY))
            assert store.proofs(commit, view) == expected

    def test_values_are_those_of_the_frozen_teacher(self, plan_for, tiny_corpus, tiny_teacher) -> None:
        plan = plan_for()
        extract(plan, batch_size=32)
        teacher = FrozenTeacher(
            tiny_teacher.config, num_classes=NUM_CLASSES, weights_uri=None, device="cpu", batch_size=1
        )
        views = rendered(tiny_corpus, num_views=NUM_VIEWS)
        some = list(views)[::17]
        wanted = teacher(np.stack([views[key] for key in some]))
        for name in OUTPUTS:
            found = stored(plan, tiny_corpus, name)
            # one view at a time against 32 at once: kernels may sum in another order
            scale = float(np.abs(wanted[name]).max())
            np.testing.assert_allclose(np.stack([found[key] for key in some]), wanted[name], rtol=0, atol=1e-6 * scale)


class TestOnce:
    def test_committed_units_are_never_computed_again(self, plan_for) -> None:
        plan = plan_for()
        assert forwards(plan, attempt="first") == plan.forwards_missing
        assert forwards(plan) == 0
        assert plan_for().missing == ()

    def test_only_what_is_missing_of_a_unit_is_computed(self, plan_for, tiny_corpus, tmp_path) -> None:
        plan = plan_for()
        extract(plan)
        before, lost = files_below(tmp_path / "cache"), plan.view_set.units[1]
        folder = f"targets/{plan.job.target_set.folder}/{plan.job.outputs['spatial'].folder}"
        open_storage(plan.job.cache_uri).remove(f"{folder}/commits/{lost.id}.0.json")
        again = plan_for()
        assert again.missing == (lost,)
        [report] = extract(again, attempt="second")
        assert (report.outputs_written, report.num_forwards) == (1, report.num_views)
        changed = {name for name, data in files_below(tmp_path / "cache").items() if before.get(name) != data}
        assert changed == {name for name in changed if name.startswith(folder) and lost.id in name}
        assert all("second" in name or name.endswith(".0.json") for name in changed)

    def test_lost_views_are_drawn_again_without_the_teacher(self, plan_for) -> None:
        plan = plan_for()
        extract(plan)
        open_storage(plan.job.cache_uri).remove(f"views/{plan.job.view_set.folder}/commits")
        again = plan_for()
        assert (again.forwards_missing, again.missing) == (0, plan.missing)
        assert forwards(again) == 0
        assert plan_for().missing == ()

    def test_of_two_attempts_at_once_the_first_stands(self, plan_for, tiny_corpus, tmp_path) -> None:
        plan = plan_for(outputs=("logits",))
        unit = plan.missing[0]
        quick = extractor_with(PixelTeacher(), plan, tiny_corpus)

        class Overtaken(PixelTeacher):
            def __call__(self, pixels_BHWC: Pixels) -> Mapping[str, Values]:
                quick(unit, attempt="quick")
                return super().__call__(pixels_BHWC)

        extractor_with(Overtaken(), plan, tiny_corpus)(unit, attempt="slow")
        names = files_below(tmp_path / "cache")
        assert any("/quick/" in name for name in names)
        assert not any("/slow/" in name for name in names)


class TestBytes:
    def test_two_attempts_give_equal_bytes(self, plan_for, tmp_path) -> None:
        for attempt in ("one", "two"):
            extract(plan_for(cache=attempt), attempt=attempt)
        # all but the commits, which name their attempt
        one, two = (
            {
                name.replace(f"/{attempt}/", "/attempt/"): data
                for name, data in files_below(tmp_path / attempt).items()
                if "/commits/" not in name
            }
            for attempt in ("one", "two")
        )
        assert one
        assert one == two

    def test_batch_size_does_not_matter(self, plan_for, tiny_corpus) -> None:
        plans = {size: plan_for(cache=f"cache-{size}") for size in (3, 64)}
        for size, plan in plans.items():
            extract(plan, batch_size=size)
        for name in OUTPUTS:
            small, large = (stored(plan, tiny_corpus, name) for plan in plans.values())
            scale = max(float(np.abs(value).max()) for value in large.values())
            for key, value in large.items():
                np.testing.assert_allclose(small[key], value, rtol=0, atol=1e-6 * scale)


class TestRefusals:
    def test_outputs_that_are_not_finite_leave_nothing_behind(self, plan_for, tiny_corpus, tmp_path) -> None:
        plan = plan_for(outputs=("logits", "spatial"))
        teacher = FrozenTeacher(
            plan.job.teacher, num_classes=NUM_CLASSES, weights_uri=None, device="cpu", batch_size=32
        )
        torch.nn.init.constant_(teacher.module.get_classifier().weight, torch.nan)
        extractor = extractor_with(teacher, plan, tiny_corpus)
        with pytest.raises(ExtractionError, match="'logits' is not finite"):
            extractor(plan.missing[0], attempt="a")
        assert not [name for name in files_below(tmp_path / "cache") if "/commits/" in name or "/units/" in name]

    def test_the_sample_and_the_view_of_a_value_that_is_not_finite_are_named(self, plan_for, tiny_corpus) -> None:
        plan = plan_for(outputs=("spatial", "logits"))
        unit = next(each for each in plan.missing if each.view_start)
        span = unit.span
        ids = tiny_corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=()).sample_ids
        teacher = FrozenTeacher(
            plan.job.teacher, num_classes=NUM_CLASSES, weights_uri=None, device="cpu", batch_size=32
        )
        seen = 0

        def spoil(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            logits = logits.clone()
            if seen <= 9 * unit.num_views < seen + len(logits):
                logits[9 * unit.num_views - seen] = torch.inf
            seen += len(logits)
            return logits

        teacher.module.get_classifier().register_forward_hook(spoil)
        where = f"unit {unit.id}, sample {int(ids[9]):016x}, view {unit.view_start}: teacher output 'logits' is not"
        with pytest.raises(ExtractionError, match=re.escape(where)):
            extractor_with(teacher, plan, tiny_corpus, batch_size=4)(unit, attempt="a")

    def test_values_too_large_for_the_codec_are_refused_with_the_way_out(
        self, plan_for, tiny_teacher, tmp_path
    ) -> None:
        outputs = {"logits": {"codec": "float16"}}
        config = type(tiny_teacher.config).model_validate(
            {**tiny_teacher.config.model_dump(), "outputs": outputs, "weights": f"{tmp_path}/loud.safetensors"}
        )
        module = build_model(config.model, num_classes=NUM_CLASSES)
        torch.nn.init.constant_(module.get_classifier().bias, 1e6)
        save_weights(module, open_storage(str(tmp_path)), "loud.safetensors")
        loud = FrozenTeacher(config, num_classes=NUM_CLASSES, weights_uri=None, device="cpu", batch_size=1)
        teacher = replace(
            tiny_teacher, config=config, weights_uri=config.weights, weights_fingerprint=loud.weights_fingerprint
        )
        plan = plan_for(teacher=teacher, outputs=("logits",))
        with pytest.raises(ExtractionError, match=r"does not fit float16 \(65504\)\. Set the output's codec: bfloat16"):
            extract(plan)
        assert len(plan_for(teacher=teacher, outputs=("logits",)).missing) == len(plan.missing)

    def test_weights_replaced_after_planning_are_refused(self, plan_for, tiny_teacher, tmp_path) -> None:
        planned = replace(tiny_teacher, weights_fingerprint="0" * 64)
        plan = plan_for(teacher=planned)
        with pytest.raises(
            FingerprintMismatch, match=r"the run was planned with 000000000000\. Somebody replaced them"
        ):
            build_extractor(plan.job, device="cpu", batch_size=1, num_threads=1)


class CountingCorpus:
    """A corpus that counts how many of its images were taken for rendering."""

    def __init__(self, corpus: PackedCorpus) -> None:
        self._corpus = corpus
        self.num_taken = 0

    def read_rows(self, *where: object, **options: object) -> Rows:
        outer = self

        class Images(list[bytes]):
            def __getitem__(self, row):
                outer.num_taken += 1
                return super().__getitem__(row)

        rows = self._corpus.read_rows(*where, **options)  # type: ignore[arg-type]
        return replace(rows, images=Images(rows.images))


def test_few_rows_are_rendered_ahead_of_the_teacher(plan_for, tiny_corpus) -> None:
    """A unit may be thousands of views: only a few batches of pixels are in memory at a time."""
    plan, corpus = plan_for(outputs=("logits",), num_views=2), CountingCorpus(tiny_corpus)
    ahead = []

    class Slow(PixelTeacher):
        def __call__(self, pixels_BHWC: Pixels) -> Mapping[str, Values]:
            time.sleep(0.05)  # ample for all 32 rows
            ahead.append(corpus.num_taken - self.num_forwards // 2)
            return super().__call__(pixels_BHWC)

    extractor_with(Slow(), plan, corpus, batch_size=8)(plan.missing[0], attempt="a")
    assert corpus.num_taken == 32
    # the four rows in hand and eight behind them
    assert max(ahead) <= 12


def test_reports_say_what_was_done(plan_for) -> None:
    plan = plan_for()
    reports = extract(plan)
    assert [report.unit_id for report in reports] == [unit.id for unit in plan.missing]
    assert sum(report.num_views for report in reports) == plan.forwards_total
    assert {report.outputs_written for report in reports} == {3}
    assert all(report.seconds >= report.render_wait_s >= 0 for report in reports)
    # waiting and computing follow one another
    assert all(report.seconds >= report.render_wait_s + report.teacher_s > 0 for report in reports)
    assert sum(report.value_bytes for report in reports) == plan.forwards_total * sum(plan.bytes_per_view.values())
    for report in extract(plan, attempt="again"):
        assert (report.teacher_s, report.value_bytes, report.idle_share) == (0, 0, 1)
