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
    price_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="what kd-ray plan reckons with", exclude_if=lambda price: price is None
    )


Label = Annotated[str, Field(pattern=r"^!?(in\(\s*[\w.-]+(\s*,\s*[\w.-]+)*\s*\)|[\w.-]+)$")]
"""What a node's label must be: `a`, `!a`, `in(a,b)` or `!in(a,b)`."""
ACCELERATOR_LABEL = "ray.io/accelerator-type"
MARKET_LABEL = "ray.io/market-type"


class TeacherResources(Resources):
    """How many workers run a teacher, on what; with `accelerators`, only on nodes with one of those types.

    `labels` are those of the nodes on which it may run. `spot` asks for nodes whose `ray.io/market-type` is spot:
    `prefer` takes others where there are none, `require` waits for them, `never` keeps away from them.

    Teachers with `share_decode` and otherwise the same resources (but for batch sizes) run in the same workers, which
    decode an image once for all of them; others run in workers of their own, at the same time where there is room.

    `placement: fused` renders views in threads of the worker that runs the teacher, `split` in tasks of one CPU each
    anywhere on the cluster, up to `max_render_tasks` for each worker: where hosts of GPUs are short of CPUs.
    """

    min_workers: PositiveInt = 1
    max_workers: PositiveInt = 1
    batch_size_per_worker: PositiveInt = 64
    placement: Literal["fused", "split"] = "fused"
    max_render_tasks: PositiveInt = 4
    accelerators: dict[str, Accelerator] = Field(default={})
    labels: dict[str, Label] = Field(default={})
    spot: Literal["prefer", "require", "never"] | None = None
    share_decode: bool = False

    @model_validator(mode="after")
    def _bounds(self) -> "TeacherResources":
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must not exceed max_workers ({self.max_workers})")
        if self.accelerators and not self.num_gpus:
            raise ValueError("accelerators are named but num_gpus is 0; set num_gpus to what one worker takes")
        if self.accelerators and ACCELERATOR_LABEL in self.labels:
            raise ValueError(f"labels has {ACCELERATOR_LABEL}, which accelerators decides; keep one of the two")
        if self.spot and MARKET_LABEL in self.labels:
            raise ValueError(f"labels has {MARKET_LABEL}, which spot decides; keep one of the two")
        return self
