"""One pool on Ray Data: a row is a unit's name, a block is a unit, a worker keeps its teachers loaded."""

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.data

from kd_ray.cache.units import Unit
from kd_ray.config.resources import ACCELERATOR_LABEL, TeacherResources
from kd_ray.engine.attempts import start_attempts
from kd_ray.engine.failures import own_error
from kd_ray.engine.metrics import ExtractionMetrics
from kd_ray.engine.nodes import selectors
from kd_ray.engine.rendering import RenderTasks
from kd_ray.engine.session import limit_threads, worker_device
from kd_ray.errors import CacheCorrupt, CorpusError, ExtractionError, ShardCorrupt, ViewMismatch
from kd_ray.extraction.job import ExtractJob, build_extractor
from kd_ray.extraction.plan import TargetPlan
from kd_ray.extraction.pools import Pool
from kd_ray.extraction.unit import UnitReport

MAX_ATTEMPTS = 3  # at a unit whose worker dies
# what is wrong with one unit; anything else is wrong with the run
UNIT_ERRORS = (ExtractionError, CorpusError, ShardCorrupt, ViewMismatch, CacheCorrupt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A unit that was not committed, and why."""

    teacher: str
    unit: Unit
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Something that people should know."""

    note: str


Told = tuple[TargetPlan, UnitReport] | Failed | Noted


class ExtractWorker:
    """Extracts one unit per call."""

    def __init__(self, jobs: tuple[ExtractJob, ...], attempts: Any) -> None:
        resources = jobs[0].teacher.resources
        num_threads = limit_threads(resources.num_cpus)
        accelerator = _accelerator_here()
        self._accelerator = accelerator or ""
        self._metrics = [ExtractionMetrics(job.teacher_name, accelerator=self._accelerator) for job in jobs]
        self._attempts = attempts
        self._node_id = ray.get_runtime_context().get_node_id()
        self._extract = build_extractor(
            *jobs,
            device=worker_device(resources.num_gpus),
            batch_size=min(job.batch_size_on(accelerator) for job in jobs),  # rows are rendered for all at once
            num_threads=num_threads,
            far=RenderTasks(*jobs, max_tasks=resources.max_render_tasks) if resources.placement == "split" else None,
        )
        self._batch_sizes = self._extract.batch_sizes

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one row, a unit and the places of the teachers that miss it, in; what there is to tell out."""
        (unit_id,), (places,) = batch["unit_id"].tolist(), batch["places"].tolist()
        if not ray.get(self._attempts.begin.remote(unit_id, self._node_id)):
            told: list[dict[str, Any]] = [{"kind": "suspect", "unit_id": unit_id}]
        else:
            told = self._extracted(Unit.from_id(unit_id), json.loads(places))
        return {"told": np.array([json.dumps(each) for each in told])}

    def _extracted(self, unit: Unit, places: list[int]) -> list[dict[str, Any]]:
        try:
            reports = self._extract.for_seats(unit, places, attempt=uuid.uuid4().hex)
        except UNIT_ERRORS as error:
            return [{"kind": "failed", "unit_id": unit.id, "reason": str(error)}]
        reports = [replace(report, accelerator=self._accelerator) for report in reports]
        for place, report in zip(places, reports, strict=True):
            self._metrics[place].add(report)
        told: list[dict[str, Any]] = [
            {"kind": "done", "place": place, "report": asdict(report)}
            for place, report in zip(places, reports, strict=True)
        ]
        now = self._extract.batch_sizes
        for before, after in zip(self._batch_sizes, now, strict=True):
            if after < before:
                note = f"memory of node {self._node_id[:8]} does not hold {before} views at once: going on with {after}"
                told.append({"kind": "note", "note": note})
        self._batch_sizes = now
        return told


def run_pool(pool: Pool, *, max_workers: int) -> Iterator[Told]:
    """All units of a pool, as they are done. A unit whose worker dies is tried again once the others are done, on
    another node where there is one.

    Raises:
        KdRayError: an error of the project's own that is not about a unit.
    """
    teacher = " and ".join(job.teacher_name for job in pool.jobs)
    left, avoid = dict(pool.units), set[str]()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        attempts = start_attempts()
        suspects: dict[Unit, tuple[int, ...]] = {}
        for told in _execute(pool, left, attempts=attempts, max_workers=max_workers, avoid=avoid):
            match told["kind"]:
                case "done":
                    yield pool.plans[told["place"]], UnitReport(**told["report"])
                case "failed":
                    yield Failed(teacher=teacher, unit=Unit.from_id(told["unit_id"]), reason=told["reason"])
                case "note":
                    yield Noted(note=f"teacher {teacher}: {told['note']}")
                case _:
                    unit = Unit.from_id(told["unit_id"])
                    suspects[unit] = pool.units[unit]
        avoid |= set(ray.get([attempts.node_of.remote(unit.id) for unit in suspects]))
        ray.kill(attempts)
        left = suspects
        if not left:
            return
        if attempt < MAX_ATTEMPTS:
            units = ", ".join(unit.id for unit in left)
            yield Noted(note=f"teacher {teacher}: a worker died of {units}: trying again elsewhere")
    for unit in left:
        reason = (
            f"unit {unit.id}: each of {MAX_ATTEMPTS} workers that tried it died (killed, out of memory, or a crash "
            "in a library). Give workers more memory, or look at its samples with kd-ray views."
        )
        yield Failed(teacher=teacher, unit=unit, reason=reason)


def _execute(
    pool: Pool, units: Mapping[Unit, tuple[int, ...]], *, attempts: Any, max_workers: int, avoid: set[str]
) -> Iterator[dict[str, Any]]:
    resources = pool.jobs[0].teacher.resources
    rows = [{"unit_id": unit.id, "places": json.dumps(places)} for unit, places in units.items()]
    reports = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ExtractWorker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=min(resources.min_workers, len(rows)),
            max_size=min(_max_workers(resources, max_workers), len(rows)),
            max_tasks_in_flight_per_actor=2,
        ),
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        fn_constructor_kwargs={"jobs": pool.jobs, "attempts": attempts},
        **_placement(resources, avoid),
    )
    try:
        for row in reports.iter_rows():
            yield json.loads(row["told"])
    except ray.exceptions.RayError as error:
        known = own_error(error)
        if known is None:
            raise
        raise known from None


def _placement(resources: TeacherResources, avoid: set[str]) -> dict[str, Any]:
    wanted, *others = selectors(resources, avoid=avoid)
    if not wanted:
        return {}
    if not others:
        return {"label_selector": wanted}
    return {"label_selector": wanted, "fallback_strategy": [{"label_selector": each} for each in others]}


def _max_workers(resources: TeacherResources, max_workers: int) -> int:
    """As many as there is room for; where views are rendered in tasks, so that a CPU of the cluster is left for these.

    Ray gives workers all that there is, and the tasks on which they wait would never start.
    """
    if resources.placement == "fused" or not resources.num_cpus:
        return max_workers
    num_cpus = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    return max(min(max_workers, int((num_cpus - 1) / resources.num_cpus)), resources.min_workers)


def _accelerator_here() -> str | None:
    # Ray annotates the values as lists; they are plain strings.
    labels: dict[str, Any] = dict(ray.get_runtime_context().get_node_labels())
    return labels.get(ACCELERATOR_LABEL)
