"""What is damaged is computed again, exactly that, in a new generation; nothing that was there is overwritten."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.units import Unit
from kd_ray.cache.verify import Verification, verify
from kd_ray.config.losses import FeatureLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.extraction.repair import path_of_output, path_of_views, repairing, repairs_of
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import build, train
from tests.support.tiny_world import (
    cached_sources,
    extract,
    files_below,
    fit_settings,
    plan_teacher,
    plan_views,
    train_job,
)

OUTPUTS = ("summary", "logits")


class Unwatched:
    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None: ...


@pytest.fixture
def replan(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> Callable[[], TargetPlan]:
    def plan() -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path / "cache", num_views=2)
        return plan_teacher(tiny_teacher, views, tiny_corpus, tmp_path / "cache", outputs=OUTPUTS)

    return plan


@pytest.fixture
def plan(replan: Callable[[], TargetPlan]) -> TargetPlan:
    extract(replan())
    done = replan()
    assert not done.missing
    return done


def verified(plan: TargetPlan) -> Verification:
    catalog = read_catalog(plan.job.cache_uri)
    return verify(catalog, catalog.entries, report=lambda done, total: None)


def repaired(plan: TargetPlan) -> TargetPlan:
    """What repair would do next."""
    entries = read_catalog(plan.job.cache_uri).entries
    wanted = {path: frozenset(plan.view_set.units) for path in entries}
    collections = {path: entry.collection for path, entry in entries.items()}
    return repairing(plan, repairs_of(verified(plan).findings, collections, wanted=wanted))


def damage(plan: TargetPlan, path: str, unit: Unit, pattern: str) -> Path:
    """Flip a byte of the first file below the unit's folder, or of its record, that matches."""
    place = Path(plan.job.cache_uri, path)
    found = next(each for each in sorted(place.glob(pattern.replace("UNIT", unit.id))) if each.is_file())
    data = bytearray(found.read_bytes())
    data[len(data) // 2] ^= 1
    found.write_bytes(data)
    return found


def losses_of(plan: TargetPlan, teacher: KnownTeacher, corpus: PackedCorpus) -> list[float]:
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=(FeatureLoss(kind="feature", output="summary"),),
        source=cached_sources(plan),
        run_uri="never-written",
        settings=fit_settings(16),  # two turns, so every view is read
    )
    result = train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)
    return [entry["loss"] for entry in result.history if "loss" in entry]


def test_one_flipped_byte_costs_one_unit_of_one_output(
    plan: TargetPlan, replan: Callable[[], TargetPlan], tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    expected = losses_of(plan, tiny_teacher, tiny_corpus)
    unit = plan.view_set.units[3]
    path = path_of_output(plan, plan.job.outputs["summary"])
    damaged = damage(plan, path, unit, "units/UNIT/*/values/c/0/0/0")
    with pytest.raises(CacheCorrupt, match=str(damaged)):
        losses_of(plan, tiny_teacher, tiny_corpus)
    before = files_below(Path(plan.job.cache_uri))
    assert not replan().missing  # nothing is, until it is looked at

    repair = repaired(plan)
    assert repair.missing == (unit,)
    (report,) = extract(repair, attempt="again")
    rows = plan.view_set.rows_of[unit.span]
    assert (report.num_forwards, report.outputs_written) == (rows * unit.num_views, 1)
    assert repair.forwards_missing == report.num_forwards

    after = files_below(Path(plan.job.cache_uri))
    assert {name: after[name] for name in before} == before
    new = {name for name in after if name not in before}
    assert f"{path}/commits/{unit.id}.1.json" in new
    places = ("commits/{unit}.1.json", "manifest/newer/{unit}.1", "units/{unit}/again/")
    assert all(name.startswith(tuple(f"{path}/{place.format(unit=unit.id)}" for place in places)) for name in new)
    assert not verified(plan).all_findings
    assert not repaired(plan).missing
    assert losses_of(plan, tiny_teacher, tiny_corpus) == expected


def test_damaged_views_cost_no_forward_pass(plan: TargetPlan) -> None:
    unit = plan.view_set.units[0]
    damage(plan, path_of_views(plan), unit, "units/UNIT/*/views.parquet")
    repair = repaired(plan)
    assert repair.forwards_missing == 0
    (report,) = extract(repair, attempt="again")
    assert (report.unit_id, report.num_forwards, report.outputs_written) == (unit.id, 0, 0)
    assert not verified(plan).all_findings


@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_record_and_a_lost_object_are_replaced_too(
    plan: TargetPlan, replan: Callable[[], TargetPlan], lost: bool
) -> None:
    """A record that cannot be read stops no planning, and the next generation replaces it."""
    unit = plan.view_set.units[1]
    path = path_of_output(plan, plan.job.outputs["logits"])
    damaged = damage(plan, path, unit, "units/UNIT/*/zarr.json" if lost else "commits/UNIT.0.json")
    if lost:
        damaged.unlink()
    repair = repaired(replan())
    assert repair.missing == (unit,)
    assert [report.outputs_written for report in extract(repair, attempt="again")] == [1]
    assert not verified(plan).all_findings


def test_a_repair_that_was_damaged_is_repaired_in_its_turn(plan: TargetPlan) -> None:
    unit = plan.view_set.units[2]
    path = path_of_output(plan, plan.job.outputs["summary"])
    damage(plan, path, unit, "units/UNIT/*/values/c/0/0/0")
    extract(repaired(plan), attempt="again")
    damage(plan, path, unit, "units/UNIT/again/values/c/0/0/0")
    repair = repaired(plan)
    assert repair.job.generations["summary"] == {unit.id: 2}
    extract(repair, attempt="and-again")
    assert not verified(plan).all_findings


def test_of_two_repairs_at_once_one_stands(plan: TargetPlan) -> None:
    unit = plan.view_set.units[2]
    path = path_of_output(plan, plan.job.outputs["summary"])
    damage(plan, path, unit, "units/UNIT/*/values/c/0/0/0")
    repair = repaired(plan)
    assert [report.outputs_written for report in extract(repair, attempt="one")] == [1]
    (report,) = extract(repair, attempt="two")
    assert (report.num_forwards, report.outputs_written) == (0, 0)
    assert not verified(plan).all_findings


def test_what_the_recipe_does_not_use_is_left_alone(plan: TargetPlan) -> None:
    unit = plan.view_set.units[0]
    damage(plan, path_of_output(plan, plan.job.outputs["logits"]), unit, "units/UNIT/*/values/c/0/0/0")
    without_logits = replace(plan, job=replace(plan.job, outputs={"summary": plan.job.outputs["summary"]}))
    assert not repaired(without_logits).missing
