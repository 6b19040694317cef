"""From what is wrong with a cache to the units that are to be computed again, and the generation of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kd_ray.cache.commits import Collection
from kd_ray.cache.findings import Finding
from kd_ray.cache.spec import Spec
from kd_ray.cache.units import Unit
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.unit import VIEWS

Findings = Mapping[str, Sequence[Finding]]
Collections = Mapping[str, Collection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairs:
    """Bad units by the path of their view set or output, with the generation that is to replace each."""

    generations: Mapping[str, Mapping[Unit, int]]

    @property
    def num_units(self) -> int:
        """How many are bad; one unit of two outputs counts twice."""
        return sum(map(len, self.generations.values()))


def repairs_of(findings: Findings, collections: Collections, *, wanted: Mapping[str, frozenset[Unit]]) -> Repairs:
    """What can be computed again: the bad units that a plan has, each in the generation after its newest."""
    bad = {path: {each.unit for each in found if each.unit in wanted[path]} for path, found in findings.items() if path}
    newest = {path: collections[path].newest_generations() for path, units in bad.items() if units}
    return Repairs(
        generations={
            path: {unit: newest[path].get(unit, -1) + 1 for unit in sorted(unit for unit in units if unit is not None)}
            for path, units in bad.items()
            if units
        }
    )


def path_of_views(plan: TargetPlan) -> str:
    """The path of a plan's view set below the cache."""
    return f"views/{plan.view_set.spec.folder}"


def path_of_output(plan: TargetPlan, spec: Spec) -> str:
    """The path of one output of a plan below the cache."""
    return f"targets/{plan.job.target_set.folder}/{spec.folder}"


def repairing(plan: TargetPlan, repairs: Repairs) -> TargetPlan:
    """The same plan with nothing missing but the units to be repaired."""
    paths = {VIEWS: path_of_views(plan)}
    paths |= {name: path_of_output(plan, spec) for name, spec in plan.job.outputs.items()}
    of = {name: repairs.generations.get(path, {}) for name, path in paths.items()}
    bad = {unit for units in of.values() for unit in units}
    bad_outputs = {unit for name, units in of.items() if name != VIEWS for unit in units}
    generations = {
        name: {**plan.job.generations.get(name, {}), **{unit.id: number for unit, number in units.items()}}
        for name, units in of.items()
    }
    return replace(
        plan,
        job=replace(plan.job, generations=generations),
        missing=tuple(unit for unit in plan.view_set.units if unit in bad),
        forwards_missing=plan.view_set.views_in(sorted(bad_outputs)),
    )
