"""Which teachers share a worker, and what is done one after another. Knows no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd_ray.cache.units import Unit
from kd_ray.config.resources import TeacherResources
from kd_ray.extraction.job import ExtractJob
from kd_ray.extraction.plan import TargetPlan

OF_EACH_TEACHER = {"batch_size_per_worker", "accelerators"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Target sets on the same views, computed by the same workers; `units` with the places of those they are missing
    in.
    """

    plans: tuple[TargetPlan, ...]
    units: Mapping[Unit, tuple[int, ...]]

    @property
    def jobs(self) -> tuple[ExtractJob, ...]:
        """What each teacher has to do."""
        return tuple(each.job for each in self.plans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Pools of the same teachers, one after another; what their workers take of the cluster."""

    pools: tuple[Pool, ...]

    @property
    def resources(self) -> TeacherResources:
        """Of each of its workers."""
        return self.pools[0].jobs[0].teacher.resources

    @property
    def name(self) -> str:
        """Its teachers, as people read them."""
        return " and ".join(dict.fromkeys(job.teacher_name for pool in self.pools for job in pool.jobs))


def lanes_of(plans: Sequence[TargetPlan]) -> list[Lane]:
    """All plans in which something is missing, in their order: a lane for each teacher, or for those that share."""
    lanes: dict[tuple[str, str], dict[str, list[TargetPlan]]] = {}
    for plan in plans:
        if plan.missing:
            pools = lanes.setdefault(_key(plan.job), {})
            pools.setdefault(plan.job.view_set.fingerprint, []).append(plan)
    return [Lane(pools=tuple(_pool(found) for found in pools.values())) for pools in lanes.values()]


def _key(job: ExtractJob) -> tuple[str, str]:
    resources = job.teacher.resources
    if not resources.share_decode:
        return "alone", job.teacher_name
    return "shared", resources.model_dump_json(exclude=OF_EACH_TEACHER) + str(sorted(resources.accelerators))


def _pool(plans: Sequence[TargetPlan]) -> Pool:
    places: dict[Unit, tuple[int, ...]] = {}
    for place, plan in enumerate(plans):
        for unit in plan.missing:
            places[unit] = (*places.get(unit, ()), place)
    return Pool(plans=tuple(plans), units=places)
