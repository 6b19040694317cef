"""Optimisers and learning-rate schedules."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Section):
    """One of timm's optimisers by name; biases and norms are not decayed."""

    kind: Literal["adamw", "sgd", "lamb", "lars"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="the learning rate of a layer is that of the next one times this, from the classifier down",
        exclude_if=lambda decay: decay is None,  # fingerprints over a dump are older than this field
    )


class Schedule(Section):
    """Learning rate over the steps of a run: warm-up, the course of `kind`, and a cool-down.

    It rises over `warmup_fraction` of the run, follows `kind`, and in the last `cooldown_fraction` goes linearly from
    where that has ended to `min_learning_rate`.
    """

    kind: Literal["cosine", "constant", "linear", "step", "one_cycle"] = "cosine"
    warmup_fraction: Fraction = 0.1
    # fingerprints over a dump are older than these fields
    cooldown_fraction: Fraction = Field(default=0.0, exclude_if=lambda fraction: fraction == 0)
    min_learning_rate: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="where cosine, linear, one_cycle and the cool-down end",
        exclude_if=lambda rate: rate == 0,
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(),
        description="of step: where in the run, as fractions of it, the learning rate falls",
        exclude_if=lambda milestones: not milestones,
    )
    milestone_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="of step: by how much", exclude_if=lambda factor: factor == 0.1
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "Schedule":
        found = []
        if self.warmup_fraction + self.cooldown_fraction >= 1:
            both = f"warmup_fraction ({self.warmup_fraction:g}) and cooldown_fraction ({self.cooldown_fraction:g})"
            found.append(("cooldown_fraction", f"{both} leave nothing of the run; together they must be below 1"))
        if self.kind == "step" and not self.milestones:
            found.append(("milestones", "the learning rate of kind step falls nowhere; give some, as [0.5, 0.75]"))
        if self.kind != "step" and (self.milestones or self.milestone_factor != 0.1):
            found.append(("milestones", f"are of kind step, but the kind is {self.kind}; remove them"))
        if list(self.milestones) != sorted(set(self.milestones)):
            found.append(("milestones", f"must rise, got {list(self.milestones)}"))
        if found:
            raise Misfits(found)
        return self


def rate_misfits(optimizer: Optimizer, schedule: Schedule) -> list[tuple[str, str]]:
    """What of the two does not fit together: (dotted path, why)."""
    if schedule.min_learning_rate < optimizer.learning_rate:
        return []
    reason = (
        f"min_learning_rate ({schedule.min_learning_rate:g}) must be below optimizer.learning_rate "
        f"({optimizer.learning_rate:g})"
    )
    return [("schedule.min_learning_rate", reason)]
