"""Training on a cache that is not complete: waiting for the rest, or the teacher in the loop for the rest, gives what a
complete cache gives.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.config.kept import KeptFormat
from kd_ray.config.losses import CrossEntropyLoss, FeatureLoss, KdLoss
from kd_ray.config.outputs import Outputs
from kd_ray.config.views import NAMELESS
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheIncomplete, FingerprintMismatch
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.storage import open_storage
from kd_ray.training.fit import FitResult, Metrics, State
from kd_ray.training.job import TrainJob, build, train
from kd_ray.training.missing import find_missing
from kd_ray.training.sources import CachedSource, LiveSource, PartialSource
from kd_ray.training.waiting import Waiting
from tests.support.tiny_world import (
    MIXED_POLICY,
    cached_source,
    cached_sources,
    extract,
    fit_settings,
    live_source,
    plan_teacher,
    plan_views,
    save_teacher,
    train_job,
)

NUM_STEPS, NUM_VIEWS = 16, 3
LOSSES = (
    CrossEntropyLoss(kind="cross_entropy"),
    KdLoss(kind="kd", temperature=2.0),
    FeatureLoss(kind="feature", output="summary", distance="cosine"),
    FeatureLoss(kind="feature", output="spatial", distance="mse"),
)
STORED = {
    "plain": {"summary": {"codec": "float32"}, "spatial": {"codec": "float32"}, "logits": {"codec": "float32"}},
    "small": {
        "summary": {"codec": "int8"},
        "spatial": {"codec": "float16"},
        "logits": {"codec": "top_k", "k": 2, "temperatures": [1.0, 2.0]},
    },
}
# Another batch size may make another kernel sum in another order, near 1e-6 of a value; a code of int8 may round over.
TOLERANCE = 1e-5
KEPT = KeptFormat(size_px=(40, 36), codec="jpeg", quality=90)
QUICK = Waiting(limit_s=600, first_pause_s=0.02, longest_pause_s=0.1)


class Unwatched:
    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None: ...


@pytest.fixture(params=list(STORED))
def teacher(request: pytest.FixtureRequest, tiny_teacher: KnownTeacher) -> KnownTeacher:
    outputs = Outputs.model_validate(STORED[request.param])
    return replace(tiny_teacher, config=tiny_teacher.config.model_copy(update={"outputs": outputs}))


@pytest.fixture
def plan_in(tiny_corpus: PackedCorpus, tmp_path: Path) -> Callable[..., TargetPlan]:
    """The plan of a cache below `tmp_path`: mixed views in blocks of two, two row groups each."""

    def plan(cache: str, teacher: KnownTeacher, *, kept: KeptFormat | None = None) -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path / cache, num_views=NUM_VIEWS, policy=MIXED_POLICY, kept=kept)
        return plan_teacher(teacher, views, tiny_corpus, tmp_path / cache)

    return plan


def job_on(
    source: Mapping[str, CachedSource] | PartialSource,
    plan: TargetPlan,
    corpus: PackedCorpus,
    teacher: KnownTeacher,
    *,
    waiting: Waiting | None = None,
) -> TrainJob:
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=LOSSES,
        source=None,
        run_uri="never-written",
        settings=fit_settings(NUM_STEPS),
    )
    return replace(job, source=source, waiting=waiting)


def fitted(job: TrainJob, corpus: PackedCorpus, *, on_wait: Callable[[str], None] = lambda _note: None) -> FitResult:
    return train(
        job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None, on_wait=on_wait
    )


def losses_of(result: FitResult) -> NDArray[np.float64]:
    """[step, term]"""
    entries = [entry for entry in result.history if "loss" in entry]
    names = sorted(name for name in entries[0] if name == "loss" or name[0].isdigit())
    assert len(names) == 1 + len(LOSSES)
    return np.array([[entry[name] for name in names] for entry in entries])


def partial_source(plan: TargetPlan, live: LiveSource, *, weights_fingerprint: str) -> PartialSource:
    """What is missing of `plan` now is computed by the teacher."""
    cached = cached_source(plan)
    missing = find_missing(cached.cache_uri, cached.view_set, cached.outputs, wanted=cached.units)
    live = replace(live, fingerprints={plan.job.teacher_name: weights_fingerprint})
    return PartialSource(cached={NAMELESS: cached}, missing={NAMELESS: missing}, live=live)


def extract_a_part(plan: TargetPlan) -> None:
    """Half of the units; of one of these no logits, of another nothing but its views."""
    extract(replace(plan, missing=plan.missing[::2]), batch_size=7)
    storage = open_storage(f"{plan.job.cache_uri}/targets/{plan.job.target_set.folder}")
    first, second = plan.missing[0], plan.missing[2]
    storage.remove(f"{plan.job.outputs['logits'].folder}/commits/{first.id}.0.json")
    for output in plan.job.outputs.values():
        storage.remove(f"{output.folder}/commits/{second.id}.0.json")


@pytest.mark.parametrize("kept", [None, KEPT], ids=["params", "pixels"])
def test_the_teacher_in_the_loop_fills_up_what_is_missing(
    plan_in, tiny_corpus: PackedCorpus, teacher: KnownTeacher, kept: KeptFormat | None
) -> None:
    whole = plan_in("whole", teacher, kept=kept)
    extract(whole, batch_size=7)
    wanted = losses_of(fitted(job_on(cached_sources(whole), whole, tiny_corpus, teacher), tiny_corpus))
    part = plan_in("part", teacher, kept=kept)
    extract_a_part(part)
    source = partial_source(part, live_source(teacher), weights_fingerprint=teacher.weights_fingerprint)
    lacking = source.missing[NAMELESS]
    assert len(lacking.of(("teacher", "logits"))) == len(lacking.of(("teacher", "summary"))) + 1
    assert len(lacking.of(("teacher", "summary"))) == len(lacking.views) + 1 < len(part.view_set.units)
    result = fitted(job_on(source, part, tiny_corpus, teacher), tiny_corpus)
    np.testing.assert_allclose(losses_of(result), wanted, rtol=0, atol=TOLERANCE)
    assert result.num_rounded == 0


def test_what_another_teacher_would_fill_in_differs(
    plan_in, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    """The comparison above can fail, and weights that are not those of the cache are refused."""
    other = save_teacher(tmp_path, seed=1)
    part = plan_in("part", tiny_teacher)
    extract_a_part(part)
    right, wrong = (
        partial_source(part, live_source(each), weights_fingerprint=each.weights_fingerprint)
        for each in (tiny_teacher, other)
    )
    found = [
        losses_of(fitted(job_on(source, part, tiny_corpus, tiny_teacher), tiny_corpus)) for source in (right, wrong)
    ]
    assert np.abs(found[0] - found[1])[0].max() > 100 * TOLERANCE
    refused = partial_source(part, live_source(other), weights_fingerprint=tiny_teacher.weights_fingerprint)
    with pytest.raises(FingerprintMismatch, match=r"teacher teacher: weights are .* the run was planned with"):
        fitted(job_on(refused, part, tiny_corpus, tiny_teacher), tiny_corpus)


def test_with_a_pinned_snapshot_later_commits_change_nothing(
    plan_in, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    """Workers that open a growing cache at different moments compute the same views live."""
    part = plan_in("part", tiny_teacher)
    extract_a_part(part)
    source = partial_source(part, live_source(tiny_teacher), weights_fingerprint=tiny_teacher.weights_fingerprint)
    extract(plan_in("part", tiny_teacher), attempt="later")
    pinned, _ = source.cached[NAMELESS].open_rest(source.missing[NAMELESS])
    for key, (_, units) in pinned.outputs.items():
        assert {commit.unit for commit in units.values()} == set(part.view_set.units) - source.missing[NAMELESS].of(key)


def write_slowly(plan: TargetPlan) -> None:
    """Runs in a process of its own."""
    for unit in reversed(plan.missing):
        extract(replace(plan, missing=(unit,)))
        time.sleep(0.1)


@pytest.mark.parametrize("teacher", ["small"], indirect=True)
def test_training_that_starts_before_the_first_unit_equals_training_after_the_last(
    plan_in, tiny_corpus: PackedCorpus, teacher: KnownTeacher
) -> None:
    """The writer is another process, which goes through the units in another order than training."""
    plan = plan_in("growing", teacher)
    writer = multiprocessing.get_context("spawn").Process(target=write_slowly, args=(plan,))
    notes: list[str] = []

    def on_wait(note: str) -> None:
        if not notes:
            assert not Path(plan.job.cache_uri).exists()
            writer.start()
        notes.append(note)

    job = job_on(cached_sources(plan), plan, tiny_corpus, teacher, waiting=QUICK)
    while_written = losses_of(fitted(job, tiny_corpus, on_wait=on_wait))
    writer.join()
    assert writer.exitcode == 0
    waited_for = {note.removeprefix("waits for ").split(" since ")[0] for note in notes}
    assert f"{plan.job.target_set.folder}/{plan.job.outputs['summary'].folder}" in waited_for
    assert any(what.startswith("unit ") for what in waited_for)
    afterwards = losses_of(fitted(job_on(cached_sources(plan), plan, tiny_corpus, teacher), tiny_corpus))
    np.testing.assert_array_equal(while_written, afterwards)


def test_waiting_for_nobody_ends_with_the_unit_named(plan_in, tiny_corpus: PackedCorpus, tiny_teacher) -> None:
    plan = plan_in("part", tiny_teacher)
    extract_a_part(plan)
    job = job_on(cached_sources(plan), plan, tiny_corpus, tiny_teacher, waiting=replace(QUICK, limit_s=0.2))
    with pytest.raises(
        CacheIncomplete, match=r"unit [\w.-]+ of \w+-\w+ is not committed, and nothing .* in the last 0.2"
    ):
        fitted(job, tiny_corpus)


def test_an_interrupt_ends_the_waiting_at_once(plan_in, tiny_corpus: PackedCorpus, tiny_teacher) -> None:
    """As Ctrl-C does: the loop is left while its batches wait, and no thread stays behind."""
    plan = plan_in("part", tiny_teacher)
    extract_a_part(plan)
    slow = Waiting(limit_s=3600, first_pause_s=600, longest_pause_s=600)
    job = job_on(cached_sources(plan), plan, tiny_corpus, tiny_teacher, waiting=slow)
    main = threading.main_thread().ident
    assert main is not None

    first = threading.Lock()

    def interrupt(_note: str) -> None:
        if first.acquire(blocking=False):  # several loads wait at once
            threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()

    before_s, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        fitted(job, tiny_corpus, on_wait=interrupt)
    assert time.monotonic() - before_s < 60
    ours = ("prefetch", "load")
    left = [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith(ours)]
    for thread in left:
        thread.join(5)  # those that waited have been told, and are about to end
    assert not any(thread.is_alive() for thread in left)
