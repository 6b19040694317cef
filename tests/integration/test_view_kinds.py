"""Several kinds of views and repeats: planned, extracted and trained together, each kind as if it were alone."""

from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_ray.cache.plan import Grid
from kd_ray.cache.view_store import open_view_store
from kd_ray.config.load import load_recipe
from kd_ray.config.losses import FeatureLoss, KdLoss
from kd_ray.config.views import NAMELESS
from kd_ray.corpus.images import decode as decoding
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.training.batches import Batch, BatchStream, NoTargets, StreamKind, StreamSettings
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import build, decode_state, encode_state, train
from kd_ray.training.snapshot import full_order
from tests.support.kinds_world import (
    BATCH_SIZE,
    MULTICROP_RECIPE,
    NARROW,
    NARROW_PX,
    NUM_CROPS,
    NUM_DRAWS,
    REPEATS,
    STUDENT_INPUT,
    VIEWS,
    WIDE,
    kinds_job,
    kinds_stream,
    plan_all,
    with_kinds,
)
from tests.support.processes import kd_ray, run
from tests.support.recipes import write
from tests.support.tiny_world import VIEW_SEED, extract, fit_settings, plan_views, save_teacher, write_images

LOSSES = (KdLoss(kind="kd"), FeatureLoss(kind="feature", output="spatial"))
SAMPLES_PER_STEP = BATCH_SIZE // REPEATS


@pytest.fixture(scope="module")
def teacher(tiny_teacher: KnownTeacher) -> KnownTeacher:
    return with_kinds(tiny_teacher)


class TestPlan:
    def test_each_kind_is_a_view_set_with_targets_at_its_size(
        self, teacher: KnownTeacher, tiny_corpus: PackedCorpus, tmp_path: Path
    ) -> None:
        plans = plan_all(teacher, tiny_corpus, tmp_path)
        num_samples = tiny_corpus.num_samples("train")
        assert [plan.view_set.spec.name for plan in plans.values()] == [
            "tiny_kinds_wide-train",
            "tiny_kinds_narrow-train",
        ]
        assert plans[WIDE].forwards_total == NUM_DRAWS * num_samples
        assert plans[NARROW].forwards_total == NUM_DRAWS * NUM_CROPS * num_samples
        assert plans[WIDE].job.outputs["spatial"].identity["shape"] == [8, 8, 64]
        assert plans[NARROW].job.outputs["spatial"].identity["shape"] == [5, 5, 64]
        assert plans[WIDE].view_set.spans == plans[NARROW].view_set.spans

    def test_a_second_run_has_nothing_to_do_and_more_draws_only_themselves(
        self, teacher: KnownTeacher, tiny_corpus: PackedCorpus, tmp_path: Path
    ) -> None:
        for plan in plan_all(teacher, tiny_corpus, tmp_path).values():
            assert sum(report.num_forwards for report in extract(plan)) == plan.forwards_total
        assert all(plan.missing == () for plan in plan_all(teacher, tiny_corpus, tmp_path).values())
        more = VIEWS.model_copy(update={"count": NUM_DRAWS + 1})
        grown = plan_all(teacher, tiny_corpus, tmp_path, views=more)
        num_samples = tiny_corpus.num_samples("train")
        assert {kind: plan.forwards_missing for kind, plan in grown.items()} == {
            WIDE: num_samples,
            NARROW: NUM_CROPS * num_samples,
        }

    def test_a_kind_that_is_added_is_cut_at_the_row_groups_of_the_first(
        self, teacher: KnownTeacher, tiny_corpus: PackedCorpus, tmp_path: Path
    ) -> None:
        stored = plan_all(teacher, tiny_corpus, tmp_path)[WIDE].view_set
        open_view_store(str(tmp_path), stored.spec, grid=Grid(unit_row_groups=3, unit_views=2))
        plans = plan_all(teacher, tiny_corpus, tmp_path, unit_row_groups=None)
        assert plans[NARROW].view_set.grid.unit_row_groups == 3
        assert plans[WIDE].view_set.spans == plans[NARROW].view_set.spans

    def test_kinds_that_were_cut_at_different_row_groups_are_refused(
        self, teacher: KnownTeacher, tiny_corpus: PackedCorpus, tmp_path: Path
    ) -> None:
        for groups, plan in enumerate(plan_all(teacher, tiny_corpus, tmp_path).values(), start=1):
            grid = Grid(unit_row_groups=groups, unit_views=2)
            open_view_store(str(tmp_path), plan.view_set.spec, grid=grid)
        with pytest.raises(RecipeError, match=r"\(wide by 1, narrow by 2\)\. Use another cache\.uri"):
            plan_all(teacher, tiny_corpus, tmp_path, unit_row_groups=None)


def stream(corpus: PackedCorpus, settings: StreamSettings) -> BatchStream:
    spans = plan_views(corpus, "never-written", num_views=1).spans
    return BatchStream(
        settings,
        full_order(corpus, spans, seed=1, num_lanes=4, window=2),
        corpus=corpus,
        usable_labels=frozenset(corpus.members("train").sample_ids.tolist()),
        targets={kind.name: NoTargets() for kind in settings.kinds},
    )


def take(
    corpus: PackedCorpus, count: int, settings: StreamSettings, *, worker: int = 0, num_workers: int = 1, step: int = 0
) -> list[Batch]:
    batches = stream(corpus, settings).batches(
        worker=worker, num_workers=num_workers, consumed=step * settings.samples_per_step
    )
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def seen(batch: Batch) -> list[list[tuple[int, int]]]:
    """By kind, every (sample, view)."""
    return [list(zip(part.sample_ids_B.tolist(), part.view_indices_B.tolist(), strict=True)) for part in batch.parts]


class TestBatches:
    def test_every_sample_comes_with_all_its_views_at_the_sizes_of_their_kinds(self, tiny_corpus: PackedCorpus) -> None:
        for batch in take(tiny_corpus, 8, kinds_stream()):
            assert batch.num_images == BATCH_SIZE
            wide, narrow = batch.parts
            assert wide.inputs_BCHW.shape == (BATCH_SIZE, 3, *STUDENT_INPUT.size_px)
            assert narrow.inputs_BCHW.shape == (BATCH_SIZE * NUM_CROPS, 3, *NARROW_PX)
            assert set(wide.sample_ids_B.tolist()) == set(narrow.sample_ids_B.tolist())
            for part, times in zip(batch.parts, (REPEATS, REPEATS * NUM_CROPS), strict=True):
                assert set(Counter(part.sample_ids_B.tolist()).values()) == {times}
                assert len({*zip(part.sample_ids_B, part.view_indices_B, strict=True)}) == len(part)

    def test_no_sample_is_lost_or_repeated_over_an_epoch(self, tiny_corpus: PackedCorpus) -> None:
        num_samples = tiny_corpus.num_samples("train")
        batches = take(tiny_corpus, 3 * num_samples // SAMPLES_PER_STEP, kinds_stream(fresh=True))
        everyone = set(tiny_corpus.members("train").sample_ids.tolist())
        for number, num_views in enumerate((REPEATS, REPEATS * NUM_CROPS)):
            drawn = [pair for batch in batches for pair in seen(batch)[number]]
            assert len(set(drawn)) == len(drawn)
            views_of = defaultdict(set)
            for sample_id, view in drawn:
                views_of[view // num_views, sample_id].add(view % num_views)
            for turn in (0, 1):
                assert {sample_id for found, sample_id in views_of if found == turn} == everyone
            assert all(views == set(range(num_views)) for views in views_of.values())

    def test_views_go_round(self, tiny_corpus: PackedCorpus) -> None:
        fresh, stored = (take(tiny_corpus, 40, kinds_stream(fresh=fresh)) for fresh in (True, False))
        for one, other in zip(fresh, stored, strict=True):
            for part, again, count in zip(one.parts, other.parts, (NUM_DRAWS, NUM_DRAWS * NUM_CROPS), strict=True):
                np.testing.assert_array_equal(part.view_indices_B % count, again.view_indices_B)

    def test_a_kind_is_as_if_it_were_alone(self, tiny_corpus: PackedCorpus) -> None:
        together = take(tiny_corpus, 6, kinds_stream())
        for number, kind in enumerate(kinds_stream().kinds):
            alone = StreamSettings(
                kinds=(
                    StreamKind(
                        name=NAMELESS,
                        policy=kind.policy,
                        num_crops=kind.num_crops,
                        num_views=kind.num_views,
                        input=kind.input,
                    ),
                ),
                view_seed=VIEW_SEED,
                repeats=REPEATS,
                global_batch_size=BATCH_SIZE,
                num_threads=2,
            )
            for wanted, found in zip(take(tiny_corpus, 6, alone), together, strict=True):
                assert torch.equal(found.parts[number].inputs_BCHW, wanted.parts[0].inputs_BCHW)
                assert torch.equal(found.parts[number].labels.own_B, wanted.parts[0].labels.own_B)

    @pytest.mark.parametrize("step", [1, 9])
    def test_another_number_of_workers_may_go_on_from_any_step(self, tiny_corpus: PackedCorpus, step: int) -> None:
        whole = take(tiny_corpus, 16, kinds_stream())[step:]
        shares = [
            take(tiny_corpus, 16 - step, kinds_stream(), worker=worker, num_workers=2, step=step) for worker in (0, 1)
        ]
        for number, batch in enumerate(whole):
            for kind in (0, 1):
                together = Counter(pair for share in shares for pair in seen(share[number])[kind])
                assert together == Counter(seen(batch)[kind])

    def test_an_image_is_decoded_once_a_turn(self, tiny_corpus: PackedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded = []

        def counted(image: bytes) -> Any:
            decoded.append(image)
            return decoding.decode(image)

        monkeypatch.setattr("kd_ray.cache.replay.decode", counted)
        monkeypatch.setattr("kd_ray.training.views.decode", counted)
        settings = kinds_stream()
        batches = stream(tiny_corpus, settings)._batches(0, 1, 0)
        for _ in range(3):
            next(batches)
        assert len(decoded) == 3 * SAMPLES_PER_STEP


class Keeping:
    """Keeps each state as the bytes that would be stored."""

    def __init__(self) -> None:
        self.states: dict[int, bytes] = {}

    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None:
        self.states[state["step"]] = encode_state(state)


def test_resuming_in_the_middle_gives_the_weights_of_the_undisturbed_run(
    teacher: KnownTeacher, tiny_corpus: PackedCorpus, tmp_path: Path
) -> None:
    plans = plan_all(teacher, tiny_corpus, tmp_path)
    for plan in plans.values():
        extract(plan)
    job = kinds_job(tiny_corpus, plans, teacher, losses=LOSSES, settings=fit_settings(12, checkpoint_every_steps=5))

    def trained(resume: State | None, hooks: Keeping) -> dict[str, torch.Tensor]:
        student = build(job)
        train(job, student, corpus=tiny_corpus, worker=0, num_workers=1, hooks=hooks, resume=resume)
        return student.state_dict()

    hooks = Keeping()
    wanted = trained(None, hooks)
    found = trained(decode_state(hooks.states[5]), Keeping())
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


class TestSizes:
    """A model that does not take the size of a kind is refused before any forward pass: Ray does not even start."""

    RIGID = "{{kind: timm, name: test_vit, args: {{img_size: 32, dynamic_img_size: false}}}}"  # as in a format string
    RESNET = "{{kind: cifar_resnet, depth: 8}}"

    def refused(self, folder: Path, text: str, *overrides: str) -> str:
        write_images(folder / "images", per_class=4)
        save_teacher(folder, seed=0)
        recipe = write(folder, text.format(home=folder))
        pack(load_recipe(recipe).corpus)
        done = run(kd_ray(str(recipe), *overrides))
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not (folder / "out" / "cache").exists()
        return " ".join(done.stderr.split())

    def test_of_a_teacher(self, tmp_path: Path) -> None:
        text = MULTICROP_RECIPE.replace(self.RESNET, self.RIGID, 1)
        told = self.refused(tmp_path, text, "teacher.outputs.spatial=null", "train.losses=[{kind: kd}]")
        assert "views.policy.kinds.local.size_px: test_vit cannot give summary for 16x16 px" in told
        assert "dynamic_img_size: true" in told

    def test_of_a_student(self, tmp_path: Path) -> None:
        head, _, tail = MULTICROP_RECIPE.rpartition(self.RESNET)
        told = self.refused(tmp_path, f"{head}{self.RIGID}{tail}", "student.input.size_px=[32,32]")
        assert "student.input.kind_sizes_px.local: test_vit cannot give summary for 12x12 px" in told
