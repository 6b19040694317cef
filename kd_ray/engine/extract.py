"""The extract stage on Ray Data: a row is a unit's name, a block is a unit, a worker keeps one teacher loaded."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.data

from kd_ray.cache.units import Unit
from kd_ray.config.resources import TeacherResources
from kd_ray.engine.data import configure_ray_data
from kd_ray.engine.failures import own_error
from kd_ray.engine.rendering import RenderTasks
from kd_ray.engine.session import limit_threads, worker_device
from kd_ray.extraction.job import ExtractJob, build_extractor
from kd_ray.extraction.unit import UnitReport

ACCELERATOR_LABEL = "ray.io/accelerator-type"


class ExtractWorker:
    """Extracts one unit per call."""

    def __init__(self, job: ExtractJob) -> None:
        resources = job.teacher.resources
        num_threads = limit_threads(resources.num_cpus)
        self._extract = build_extractor(
            job,
            device=worker_device(resources.num_gpus),
            batch_size=job.batch_size_on(_accelerator_here()),
            num_threads=num_threads,
            far=RenderTasks(job, max_tasks=resources.max_render_tasks) if resources.placement == "split" else None,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one row: the name of a unit in, its report out."""
        (unit_id,) = batch["unit_id"].tolist()
        report = self._extract(Unit.from_id(unit_id), attempt=uuid.uuid4().hex)
        return {name: np.array([value]) for name, value in asdict(report).items()}


def extract_units(job: ExtractJob, units: Sequence[Unit], *, on_report: Callable[[UnitReport], None]) -> None:
    """Compute and commit `units`, telling of each as it is done; what is committed by others meanwhile is not redone.

    Raises:
        KdRayError: whatever of the project's own errors a worker raised.
    """
    configure_ray_data()
    resources = job.teacher.resources
    placement: dict[str, Any] = {}
    if resources.accelerators:
        placement["label_selector"] = {ACCELERATOR_LABEL: f"in({','.join(sorted(resources.accelerators))})"}
    rows = ray.data.from_items([{"unit_id": unit.id} for unit in units], override_num_blocks=len(units))
    reports = rows.map_batches(
        ExtractWorker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=min(resources.min_workers, len(units)),
            max_size=min(_max_workers(resources), len(units)),
            max_tasks_in_flight_per_actor=2,
        ),
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        fn_constructor_kwargs={"job": job},
        **placement,
    )
    try:
        for row in reports.iter_rows():
            on_report(UnitReport(**row))
    except ray.exceptions.RayError as error:
        known = own_error(error)
        if known is None:
            raise
        raise known from None


def _max_workers(resources: TeacherResources) -> int:
    """As many as the recipe wants; where views are rendered in tasks, so that a CPU of the cluster is left for these.

    Ray gives workers all that there is, and the tasks on which they wait would never start.
    """
    if resources.placement == "fused" or not resources.num_cpus:
        return resources.max_workers
    num_cpus = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    return max(min(resources.max_workers, int((num_cpus - 1) / resources.num_cpus)), resources.min_workers)


def _accelerator_here() -> str | None:
    # Ray annotates the values as lists; they are plain strings.
    labels: dict[str, Any] = dict(ray.get_runtime_context().get_node_labels())
    return labels.get(ACCELERATOR_LABEL)
