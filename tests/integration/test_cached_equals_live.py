"""The promise of the whole project: training from the cache is training with the teacher in the loop.

With the same views, both give the same loss at every step, though the cache was filled in other batches, by unit and
view, and the student sees each view at another size than the teacher.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd_ray.cache.units import Span
from kd_ray.config.kept import KeptFormat
from kd_ray.config.losses import CrossEntropyLoss, FeatureLoss, KdLoss
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.batches import BatchStream, TargetSource
from kd_ray.training.fit import Metrics, State, fit
from kd_ray.training.job import TrainJob, build, open_source, train
from kd_ray.training.loading import TargetKey
from kd_ray.training.sources import CachedSource, LiveSource
from tests.support.kinds_world import kinds_job, plan_all, with_kinds
from tests.support.tiny_world import (
    MIXED_POLICY,
    POLICY,
    STUDENT_SIZE_PX,
    TEACHER_SIZE_PX,
    cached_sources,
    extract,
    fit_settings,
    live_source,
    plan_teacher,
    plan_views,
    train_job,
)

NUM_STEPS, NUM_VIEWS = 20, 3
LOSSES = (
    CrossEntropyLoss(kind="cross_entropy"),
    KdLoss(kind="kd", temperature=2.0),
    FeatureLoss(kind="feature", output="summary", distance="cosine", weight=2.0),
    FeatureLoss(kind="feature", output="spatial", distance="mse", weight=0.5),
)
TERMS = ("loss", "0_cross_entropy", "1_kd", "2_feature_summary", "3_feature_spatial")
# Measured on one CPU thread: 0. Another batch size may make another kernel sum in another order, near 1e-6 of a value.
TOLERANCE = 1e-5


class Unwatched:
    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None: ...


KEPT = KeptFormat(size_px=(40, 36), codec="jpeg", quality=90)


@pytest.fixture(
    scope="module",
    params=[(POLICY, None), (MIXED_POLICY, None), (MIXED_POLICY, KEPT)],
    ids=["tiny", "tiny_mixed", "tiny_mixed_kept"],
)
def plan(
    request: pytest.FixtureRequest,
    tiny_corpus: PackedCorpus,
    tiny_teacher: KnownTeacher,
    tmp_path_factory: pytest.TempPathFactory,
) -> TargetPlan:
    """A filled cache: batches of 7 views, which is not how training cuts them."""
    cache = tmp_path_factory.mktemp("cache")
    policy, kept = request.param
    views = plan_views(tiny_corpus, cache, num_views=NUM_VIEWS, policy=policy, kept=kept)
    plan = plan_teacher(tiny_teacher, views, tiny_corpus, cache)
    extract(plan, batch_size=7)
    return plan


def job_with(
    source: Mapping[str, CachedSource] | LiveSource, plan: TargetPlan, corpus: PackedCorpus, teacher: KnownTeacher
) -> TrainJob:
    return train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=LOSSES,
        source=source,
        run_uri=Path("never-written"),
        settings=fit_settings(NUM_STEPS),
    )


def losses_of(job: TrainJob, corpus: PackedCorpus) -> NDArray[np.float64]:
    """[step, term], total first."""
    result = train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)
    return np.array([[entry[name] for name in TERMS] for entry in result.history if "loss" in entry])


class OtherView:
    """A cache that hands out the targets of the next view: what a mix-up of views would be."""

    def __init__(self, source: TargetSource, num_views: int) -> None:
        self._source = source
        self._num_views = num_views
        self.num_rounded = 0
        self.collect, self.check = source.collect, source.check

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, NDArray[Any]]:
        return self._source.load(span, (view_index + 1) % self._num_views, rows)


def losses_under_mixed_up_views(job: TrainJob, corpus: PackedCorpus) -> NDArray[np.float64]:
    right, _ = open_source(job, torch.device("cpu"))
    stream = BatchStream(
        job.stream,
        job.order,
        corpus=corpus,
        usable_labels=frozenset(),
        targets={kind.name: OtherView(right[kind.name], kind.num_views or 1) for kind in job.stream.kinds},
    )
    batches = stream.batches(worker=0, num_workers=1, consumed=0)
    try:
        history = fit(build(job), batches, job.losses, settings=job.settings, hooks=Unwatched(), resume=None).history
    finally:
        batches.close()
    return np.array([[entry[name] for name in TERMS] for entry in history if "loss" in entry])


def test_every_step_has_the_same_loss_from_the_cache_as_with_the_teacher_in_the_loop(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    assert TEACHER_SIZE_PX != STUDENT_SIZE_PX
    live = losses_of(job_with(live_source(tiny_teacher), plan, tiny_corpus, tiny_teacher), tiny_corpus)
    cached = losses_of(job_with(cached_sources(plan), plan, tiny_corpus, tiny_teacher), tiny_corpus)
    assert live.shape == (NUM_STEPS, len(TERMS))
    # several epochs, so that every view has been used
    assert 2 * tiny_corpus.num_samples("train") < NUM_STEPS * 16
    np.testing.assert_allclose(cached, live, rtol=0, atol=TOLERANCE)


def test_and_that_is_not_so_if_views_are_mixed_up(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    """The comparison above can fail: targets of the neighbouring view change every term of the first step."""
    job = job_with(cached_sources(plan), plan, tiny_corpus, tiny_teacher)
    right, wrong = losses_of(job, tiny_corpus), losses_under_mixed_up_views(job, tiny_corpus)
    from_targets = [TERMS.index(name) for name in TERMS if name != "0_cross_entropy"]
    assert (np.abs(right - wrong)[0, from_targets] > 100 * TOLERANCE).all()


@pytest.fixture(scope="module")
def kinds_teacher(tiny_teacher: KnownTeacher) -> KnownTeacher:
    return with_kinds(tiny_teacher)


@pytest.fixture(scope="module")
def kinds_plans(
    tiny_corpus: PackedCorpus, kinds_teacher: KnownTeacher, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TargetPlan]:
    plans = plan_all(kinds_teacher, tiny_corpus, tmp_path_factory.mktemp("kinds_cache"))
    for plan in plans.values():
        extract(plan, batch_size=7)
    return plans


def test_so_it_is_with_several_kinds_of_views_and_repeats(
    kinds_plans: dict[str, TargetPlan], tiny_corpus: PackedCorpus, kinds_teacher: KnownTeacher
) -> None:
    cached, live = (
        losses_of(
            kinds_job(
                tiny_corpus, kinds_plans, kinds_teacher, losses=LOSSES, settings=fit_settings(NUM_STEPS), live=live
            ),
            tiny_corpus,
        )
        for live in (False, True)
    )
    assert live.shape == (NUM_STEPS, len(TERMS))
    np.testing.assert_allclose(cached, live, rtol=0, atol=TOLERANCE)


def test_and_not_if_views_of_a_kind_are_mixed_up(
    kinds_plans: dict[str, TargetPlan], tiny_corpus: PackedCorpus, kinds_teacher: KnownTeacher
) -> None:
    job = kinds_job(tiny_corpus, kinds_plans, kinds_teacher, losses=LOSSES, settings=fit_settings(1))
    right, wrong = losses_of(job, tiny_corpus), losses_under_mixed_up_views(job, tiny_corpus)
    from_targets = [TERMS.index(name) for name in TERMS if name != "0_cross_entropy"]
    assert (np.abs(right - wrong)[0, from_targets] > 100 * TOLERANCE).all()


def test_so_it_is_with_repeats_of_mixed_views(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    found = []
    for source in (cached_sources(plan), live_source(tiny_teacher)):
        job = job_with(source, plan, tiny_corpus, tiny_teacher)
        repeated = replace(job.stream, repeats=NUM_VIEWS, global_batch_size=4 * NUM_VIEWS)
        found.append(losses_of(replace(job, stream=repeated), tiny_corpus))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=TOLERANCE)
