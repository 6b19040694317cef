"""Every loss has the same value from the cache as with the teacher in the loop, and goes on from a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from kd_ray.config.losses import Distance, Loss, Relation
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import build, decode_state, encode_state, train
from kd_ray.training.sources import CachedSource, LiveSource
from tests.support.tiny_world import (
    cached_sources,
    extract,
    fit_settings,
    live_source,
    plan_teacher,
    plan_views,
    train_job,
)

NUM_STEPS, HALF = 20, 10
HEADLESS = {"head": None}
LOSSES: tuple[Loss, ...] = tuple(
    TypeAdapter(Loss).validate_python({"weight": 0.1, **values})
    for values in (
        {"kind": "cross_entropy", "weight_schedule": {"kind": "cosine", "start": 1, "end": 0}},
        {"kind": "kd", "temperature": 2, "weight_schedule": {"fraction": 0.5}},
        {"kind": "kd", "standardize_logits": True},
        {"kind": "dist"},
        {"kind": "dkd"},
        {"kind": "binary_kd"},
        {"kind": "contrastive", "queue_size": 40},
        *({"kind": "feature", "output": "spatial", "distance": name} for name in Distance.__args__),
        {"kind": "feature", "output": "spatial", "distance": "attention_transfer", **HEADLESS},
        *({"kind": "relational", "output": "spatial", "distance": name} for name in Relation.__args__),
    )
)
# as in test_cached_equals_live.py
TOLERANCE = 1e-5


class Kept:
    """Hooks that keep checkpoints as they would be stored."""

    def __init__(self) -> None:
        self.states: list[bytes] = []

    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None:
        self.states.append(encode_state(state))


@pytest.fixture(scope="module")
def plan(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path_factory: pytest.TempPathFactory) -> TargetPlan:
    cache = tmp_path_factory.mktemp("cache")
    plan = plan_teacher(tiny_teacher, plan_views(tiny_corpus, cache, num_views=2), tiny_corpus, cache)
    extract(plan, batch_size=7)
    return plan


def history(
    source: Mapping[str, CachedSource] | LiveSource,
    plan: TargetPlan,
    corpus: PackedCorpus,
    teacher: KnownTeacher,
    *,
    hooks: Kept | None = None,
    resume: State | None = None,
) -> list[Metrics]:
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=LOSSES,
        source=source,
        run_uri=Path("never-written"),
        settings=fit_settings(NUM_STEPS, checkpoint_every_steps=HALF),
    )
    result = train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=hooks or Kept(), resume=resume)
    return [each for each in result.history if "loss" in each]


def test_every_loss_is_the_same_from_the_cache_at_every_step_and_after_a_checkpoint(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    hooks = Kept()
    live = history(live_source(tiny_teacher), plan, tiny_corpus, tiny_teacher)
    cached = history(cached_sources(plan), plan, tiny_corpus, tiny_teacher, hooks=hooks)
    terms = [name for name in live[0] if name == "loss" or name[0].isdigit()]
    assert len(terms) == len(LOSSES) + 1
    assert len(live) == NUM_STEPS
    for name in terms:
        found, expected = (np.array([step[name] for step in steps]) for steps in (cached, live))
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=name)
    state = decode_state(hooks.states[0])
    assert [len(queue) for queue in state["queues"].values()] == [40]
    resumed = history(cached_sources(plan), plan, tiny_corpus, tiny_teacher, resume=state)
    assert [[step[name] for name in terms] for step in resumed] == [[step[name] for name in terms] for step in cached]
