"""What the processes of a run take of a cluster."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.corpus import PositiveInt


class Resources(Section):
    """What one Ray worker process takes."""

    num_cpus: Annotated[float, Field(ge=0)] = 1
    num_gpus: Annotated[float, Field(ge=0)] = 0


class Accelerator(Section):
    """How a teacher runs on one accelerator type."""

    batch_size_per_worker: PositiveInt


class TeacherResources(Resources):
    """How many workers run a teacher, on what; with `accelerators`, only on nodes with one of those types.

    `placement: fused` renders views in threads of the worker that runs the teacher, `split` in tasks of one CPU each
    anywhere on the cluster, up to `max_render_tasks` for each worker: where hosts of GPUs are short of CPUs.
    """

    min_workers: PositiveInt = 1
    max_workers: PositiveInt = 1
    batch_size_per_worker: PositiveInt = 64
    placement: Literal["fused", "split"] = "fused"
    max_render_tasks: PositiveInt = 4
    accelerators: dict[str, Accelerator] = Field(default={})

    @model_validator(mode="after")
    def _bounds(self) -> "TeacherResources":
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must not exceed max_workers ({self.max_workers})")
        if self.accelerators and not self.num_gpus:
            raise ValueError("accelerators are named but num_gpus is 0; set num_gpus to what one worker takes")
        return self
