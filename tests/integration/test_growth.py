"""A cache grows by views, samples, outputs and teachers: only what is new is computed, what is there never changes.

Who asks for less reads of the large cache what a small one of its own would hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.config.losses import FeatureLoss, KdLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import build, train
from tests.support.tiny_world import (
    cached_sources,
    extract,
    files_below,
    fit_settings,
    pack_images,
    plan_teacher,
    plan_views,
    save_teacher,
    train_job,
    write_images,
)

LOSSES = (KdLoss(kind="kd"), FeatureLoss(kind="feature", output="summary"))
BOTH = ("summary", "logits")


class Unwatched:
    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None: ...


@dataclass
class Growing:
    """A cache, and what each step of its growth cost: forward passes run, and those that were due."""

    cache: Path
    first: PackedCorpus
    grown: PackedCorpus
    teachers: tuple[KnownTeacher, KnownTeacher]
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)

    def plan(self, corpus: PackedCorpus, teacher: KnownTeacher, *, num_views: int, outputs=BOTH) -> TargetPlan:
        views = plan_views(corpus, self.cache, num_views=num_views)
        return plan_teacher(teacher, views, corpus, self.cache, outputs=outputs)

    def step(self, name: str, plan: TargetPlan, *, due: int) -> None:
        """Extract what is missing, and compare what was there before."""
        before = files_below(self.cache)
        reports = extract(plan, attempt=name.replace(" ", "-"))
        after = files_below(self.cache)
        self.steps[name] = (sum(report.num_forwards for report in reports), due)
        self.changed[name] = [path for path, data in before.items() if after.get(path) != data]


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Growing]:
    home = tmp_path_factory.mktemp("growing")
    write_images(home / "source", per_class=24)
    first = pack_images(home / "source", home / "packed")
    write_images(home / "source", per_class=12, seed=1)
    grown = pack_images(home / "source", home / "packed")
    one, other = save_teacher(home, seed=0), save_teacher(home, seed=1, name="other")
    cache = Growing(cache=home / "cache", first=first, grown=grown, teachers=(one, other))
    few, many = first.num_samples("train"), grown.num_samples("train")
    assert few < many
    cache.step("two views", cache.plan(first, one, num_views=2, outputs=("summary",)), due=2 * few)
    cache.step("more views", cache.plan(first, one, num_views=5, outputs=("summary",)), due=3 * few)
    cache.step("more samples", cache.plan(grown, one, num_views=5, outputs=("summary",)), due=5 * (many - few))
    cache.step("another output", cache.plan(grown, one, num_views=5), due=5 * many)
    cache.step("another teacher", cache.plan(grown, other, num_views=5), due=5 * many)
    return cache


def test_only_what_is_new_is_computed(growing: Growing) -> None:
    assert len(growing.steps) == 5
    assert {name: run for name, (run, _) in growing.steps.items()} == {
        name: due for name, (_, due) in growing.steps.items()
    }


def test_nothing_that_was_there_changes(growing: Growing) -> None:
    assert growing.changed == {name: [] for name in growing.steps}


def test_views_are_stored_once_for_all_teachers(growing: Growing) -> None:
    attempts = {path.split("/")[-2] for path in files_below(growing.cache / "views") if "/units/" in path}
    assert attempts == {"two-views", "more-views", "more-samples"}


def losses_of(corpus: PackedCorpus, plan: TargetPlan, teacher: KnownTeacher) -> NDArray[np.float64]:
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=LOSSES,
        source=cached_sources(plan),
        run_uri="never-written",
        settings=fit_settings(12),
    )
    result = train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)
    return np.array([entry["loss"] for entry in result.history if "loss" in entry])


def test_fewer_views_samples_and_teachers_are_read_as_from_a_cache_of_their_own(
    growing: Growing, tmp_path: Path
) -> None:
    teacher = growing.teachers[0]
    part = growing.plan(growing.first, teacher, num_views=3)
    assert (part.missing, part.forwards_missing) == ((), 0)
    own_views = plan_views(growing.first, tmp_path / "own", num_views=3)
    own = plan_teacher(teacher, own_views, growing.first, tmp_path / "own", outputs=BOTH)
    extract(own)
    assert {unit.view_stop for unit in part.view_set.units} != {unit.view_stop for unit in own.view_set.units}
    np.testing.assert_array_equal(losses_of(growing.first, part, teacher), losses_of(growing.first, own, teacher))
