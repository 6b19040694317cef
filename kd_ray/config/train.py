"""How students are trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.losses import FeatureLoss, Loss
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.config.resources import Resources

MissingTargets = Literal["refuse", "wait", "skip", "live"]
DataWeightMode = Literal["none", "inv_frequency", "inv_sq_frequency", "inv_log_frequency"]
DataWeightBy = Literal["label", "duplicates"]


class Train(Section):
    """How students are trained; `global_batch_size` is over all workers, `lanes` fix the order for any number."""

    losses: Annotated[tuple[Loss, ...], Field(min_length=1)]
    targets: Literal["cached", "live"] = "cached"
    missing_targets: MissingTargets = Field(
        default="refuse",
        description="cached targets that another run has yet to extract: wait for them, skip their samples, or compute "
        "them live",
    )
    wait_limit_s: Annotated[float, Field(gt=0)] = Field(
        default=3600, description="wait gives up where nothing was committed for so long"
    )
    epochs: Annotated[float, Field(gt=0)]
    steps_per_epoch: PositiveInt | None = Field(
        default=None, description="null: an epoch is one pass over as many samples as there are"
    )
    data_weight_mode: DataWeightMode = Field(
        default="none", description="a sample comes up in proportion to 1, 1/c, 1/c² or 1/ln(c + 1)"
    )
    data_weight_by: DataWeightBy = Field(
        default="label", description="c: its source's samples of the same label, or the equal images it stands for"
    )
    global_batch_size: PositiveInt = 64
    num_workers: PositiveInt = 1
    resources_per_worker: Resources = Resources()
    lanes: PositiveInt = 8
    shuffle_window: PositiveInt = Field(default=2, description="row-group runs shuffled together in one lane")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    seed: int = 0
    reference: bool = Field(default=False, description="train the same student, same steps, on the labels alone")
    log_every_steps: PositiveInt = 20
    evaluate_every_steps: PositiveInt = 200
    checkpoint_every_steps: PositiveInt = 500
    max_failures: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _parts_fit(self) -> "Train":
        found = []
        if self.global_batch_size % self.lanes:
            reason = f"global_batch_size ({self.global_batch_size}) must be a multiple of lanes ({self.lanes})"
            found.append(("global_batch_size", reason))
        if self.lanes % self.num_workers:
            found.append(("lanes", f"lanes ({self.lanes}) must be a multiple of num_workers ({self.num_workers})"))
        if self.targets == "live":
            reason = "standardize is made from cached targets; set targets: cached, or remove it"
            found += [
                (f"losses.{index}.standardize", reason)
                for index, loss in enumerate(self.losses)
                if isinstance(loss, FeatureLoss) and loss.standardize is not None
            ]
        if self.targets == "live" and self.missing_targets != "refuse":
            reason = f"missing_targets: {self.missing_targets} is about cached targets, but targets is live; remove one"
            found.append(("missing_targets", reason))
        if found:
            raise Misfits(found)
        return self

    def num_steps(self, num_samples: int) -> int:
        """How many batches a run takes on a corpus with so many training samples; at least one."""
        steps_per_epoch = self.steps_per_epoch or num_samples / self.global_batch_size
        return max(round(self.epochs * steps_per_epoch), 1)
