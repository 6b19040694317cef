"""Which teachers share workers, and what is done one after another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.extraction.pools import lanes_of
from tests.support.tiny_world import extract, plan_teacher, plan_views, save_teacher


def plan(
    folder: Path, corpus: PackedCorpus, name: str, *, seed: int = 0, num_views: int = 2, **resources: Any
) -> TargetPlan:
    """Of a teacher of that name, on views of which each number is a view set of its own cache."""
    saved: KnownTeacher = save_teacher(folder, seed=seed, name=name)
    config = type(saved.config).model_validate({**saved.config.model_dump(), "resources": resources})
    cache = folder / f"cache-{num_views}"
    views = plan_views(corpus, cache, num_views=num_views)
    return plan_teacher(replace(saved, config=config), views, corpus, cache, outputs=("logits",))


def test_only_teachers_that_say_so_and_take_the_same_share_workers(tiny_corpus: PackedCorpus, tmp_path: Path) -> None:
    plans = [
        plan(tmp_path, tiny_corpus, "a", share_decode=True, batch_size_per_worker=8),
        plan(tmp_path, tiny_corpus, "b", seed=1),
        plan(tmp_path, tiny_corpus, "c", seed=2, share_decode=True),
        plan(tmp_path, tiny_corpus, "d", seed=3, share_decode=True, num_cpus=2),
    ]
    lanes = lanes_of(plans)
    assert [lane.name for lane in lanes] == ["a and c", "b", "d"]
    (pool,) = lanes[0].pools
    assert set(pool.units.values()) == {(0, 1)}
    assert list(pool.units) == list(plans[0].missing)


def test_a_unit_is_for_those_that_miss_it(tiny_corpus: PackedCorpus, tmp_path: Path) -> None:
    first = plan(tmp_path, tiny_corpus, "a", share_decode=True)
    extract(replace(first, missing=first.missing[:1]))
    plans = [
        plan(tmp_path, tiny_corpus, "a", share_decode=True),
        plan(tmp_path, tiny_corpus, "b", seed=1, share_decode=True),
    ]
    (lane,) = lanes_of(plans)
    (pool,) = lane.pools
    assert pool.units[first.missing[0]] == (1,)
    assert pool.units[first.missing[1]] == (0, 1)
    assert len(pool.units) == len(first.missing)


def test_nothing_is_started_for_a_teacher_that_misses_nothing(tiny_corpus: PackedCorpus, tmp_path: Path) -> None:
    extract(plan(tmp_path, tiny_corpus, "a"))
    plans = [plan(tmp_path, tiny_corpus, "a"), plan(tmp_path, tiny_corpus, "b", seed=1)]
    assert [lane.name for lane in lanes_of(plans)] == ["b"]
