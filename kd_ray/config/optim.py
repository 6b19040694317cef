"""Optimisers and learning-rate schedules."""

from typing import Annotated, Literal

from pydantic import Field

from kd_ray.config.base import Section


class Optimizer(Section):
    """One of timm's optimisers by name; biases and norms are not decayed."""

    kind: Literal["adamw", "sgd", "lamb", "lars"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class Schedule(Section):
    """Learning rate over steps: linear warm-up over `warmup_fraction` of the run, then cosine to zero, or constant."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
