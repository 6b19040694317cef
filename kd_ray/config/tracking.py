"""Where the numbers of a training run go beside its own record."""

from typing import Annotated, Literal

from pydantic import Field

from kd_ray.config.base import Location, Section

Name = Annotated[str, Field(min_length=1)]


class Mlflow(Section):
    """A run of MLflow (`pip install kd-ray[mlflow]`), found again by the location of the student's run."""

    tracking_uri: Location
    experiment: Name = "kd_ray"


class Wandb(Section):
    """A run of Weights & Biases (`pip install kd-ray[wandb]`); offline ones lie beside the student's run."""

    project: Name = "kd_ray"
    entity: Name | None = None
    mode: Literal["online", "offline"] = "online"


class Tracking(Section):
    """Trackers; TensorBoard's event files lie in `tensorboard/` beside the student's weights."""

    tensorboard: bool = True
    mlflow: Mlflow | None = None
    wandb: Wandb | None = None


NO_TRACKING = Tracking(tensorboard=False)
