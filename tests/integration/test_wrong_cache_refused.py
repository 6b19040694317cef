"""A cache that is not of these views, this teacher or this corpus is refused, and the difference is named."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.view_store import VIEWS_OBJECT, find_view_store
from kd_ray.config.losses import FeatureLoss
from kd_ray.config.views import CenterCrop, Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt, CacheIncomplete, FingerprintMismatch, ViewMismatch
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.fit import FitResult
from kd_ray.training.job import build, train
from kd_ray.views import Proof, decode_views
from tests.support.tiny_world import (
    cached_sources,
    extract,
    fit_settings,
    pack_images,
    plan_teacher,
    plan_views,
    save_teacher,
    train_job,
)

OUTPUTS = ("summary",)
LOSSES = (FeatureLoss(kind="feature", output="summary"),)


class Unwatched:
    def log(self, step, metrics) -> None: ...

    def evaluate(self, step):
        return {}

    def checkpoint(self, state) -> None: ...


@pytest.fixture
def plan_for(tiny_corpus: PackedCorpus, tmp_path: Path) -> Callable[..., TargetPlan]:
    def plan(teacher: KnownTeacher, *, num_views: int = 1) -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path / "cache", num_views=num_views, unit_row_groups=4)
        return plan_teacher(teacher, views, tiny_corpus, tmp_path / "cache", outputs=OUTPUTS)

    return plan


def train_from(plan: TargetPlan, teacher: KnownTeacher, corpus: PackedCorpus, *, verify_one_in: int = 1) -> FitResult:
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=LOSSES,
        source=cached_sources(plan, verify_one_in=verify_one_in),
        run_uri="never-written",
        settings=fit_settings(3),
    )
    return train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)


def store_digests_of_another_policy(plan: TargetPlan) -> None:
    other = Policy(name="other", operations=(CenterCrop(kind="center_crop"),))
    extract(replace(plan, job=replace(plan.job, policy=other)))


def store_digests_of_the_neighbours(plan: TargetPlan) -> None:
    """The views of `plan`, but each with the proof of the next image."""
    _replace_proofs(plan, lambda proofs: [*proofs[1:], proofs[0]])


def store_proofs_of_another_decoder(plan: TargetPlan) -> None:
    """The views of `plan` with other digests, and thumbnails that differ by one level."""
    _replace_proofs(
        plan,
        lambda proofs: [
            Proof(digest=bytes(16), thumbnail=bytes(each ^ 1 for each in proof.thumbnail or b"")) for proof in proofs
        ],
    )


def _replace_proofs(plan: TargetPlan, other: Callable[[list[Proof]], list[Proof]]) -> None:
    extract(plan)
    store = find_view_store(plan.job.cache_uri, plan.job.view_set)
    assert store is not None
    storage = store.collection.storage
    for unit, commit in store.collection.commits().items():
        rows = decode_views(storage.read(store.collection.object_name(commit, VIEWS_OBJECT)))
        changed = other([row.proof for row in rows])
        rows = [replace(row, proof=proof) for row, proof in zip(rows, changed, strict=True)]
        storage.remove(f"{store.collection.folder}/commits/{unit.id}.0.json")
        store.write(unit, rows, np.array([row.sample_id for row in rows], np.uint64), attempt="second")


@pytest.mark.parametrize("store", [store_digests_of_another_policy, store_digests_of_the_neighbours])
def test_views_that_the_teacher_did_not_see_are_refused(plan_for, tiny_corpus, tiny_teacher, store) -> None:
    plan = plan_for(tiny_teacher)
    store(plan)
    with pytest.raises(ViewMismatch) as caught:
        train_from(plan, tiny_teacher, tiny_corpus)
    named = re.match(
        r"sample ([0-9a-f]{16}), view 0: the replayed view is not the one the teacher saw", str(caught.value)
    )
    assert named is not None
    assert int(named[1], 16) in tiny_corpus.members("train").sample_ids


def test_views_of_another_decoder_are_counted_and_trained_on(plan_for, tiny_corpus, tiny_teacher) -> None:
    plan = plan_for(tiny_teacher)
    store_proofs_of_another_decoder(plan)
    result = train_from(plan, tiny_teacher, tiny_corpus)
    assert result.num_rounded >= 3 * 16  # every view of three steps, each another one, and those read ahead


def test_views_are_checked_as_often_as_asked(plan_for, tiny_corpus, tiny_teacher) -> None:
    plan = plan_for(tiny_teacher)
    store_digests_of_another_policy(plan)
    # which views are looked at depends on their sample ids alone: here on none of the first 48
    result = train_from(plan, tiny_teacher, tiny_corpus, verify_one_in=10**18)
    assert result.history[-1]["step"] == 3


def test_targets_of_other_weights_are_refused(plan_for, tiny_corpus, tiny_teacher, tmp_path) -> None:
    extract(plan_for(tiny_teacher))
    other = save_teacher(tmp_path, seed=1)
    old, new = tiny_teacher.weights_fingerprint, other.weights_fingerprint
    with pytest.raises(FingerprintMismatch, match=f"first difference: teacher.weights: '{old}' -> '{new}'"):
        train_from(plan_for(other), other, tiny_corpus)


def test_targets_of_another_precision_are_refused(plan_for, tiny_corpus, tiny_teacher) -> None:
    extract(plan_for(tiny_teacher))
    other = replace(tiny_teacher, config=tiny_teacher.config.model_copy(update={"precision": "bfloat16"}))
    with pytest.raises(
        FingerprintMismatch, match=r"first difference: teacher\.precision: 'float32' -> 'bfloat16'\. Run the extract"
    ):
        train_from(plan_for(other), other, tiny_corpus)


def test_views_that_are_not_there_yet_are_counted(plan_for, tiny_corpus, tiny_teacher) -> None:
    extract(plan_for(tiny_teacher, num_views=2))
    with pytest.raises(CacheIncomplete, match=r"4 of 8 units are not committed, the first is train-00000\.g"):
        train_from(plan_for(tiny_teacher, num_views=3), tiny_teacher, tiny_corpus)


def test_targets_of_other_samples_are_refused(plan_for, tiny_corpus, tiny_teacher, tmp_path) -> None:
    """The same files, packed in another order: another corpus, whose targets are not to be read in its place."""
    plan = plan_for(tiny_teacher)
    extract(plan)
    source = Path(tiny_corpus.uri).parent / "source"
    other = pack_images(source, tmp_path / "packed", seed=1)
    with pytest.raises(CacheCorrupt, match=r"was made from other samples than the corpus holds there"):
        train_from(plan, tiny_teacher, other)
