"""Losses and training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.models import Optimizer, Resources, Schedule

Weight = Annotated[float, Field(gt=0)]


class CrossEntropyLoss(Section):
    """Cross-entropy with the label, averaged over the batch; a sample without a label counts 0."""

    kind: Literal["cross_entropy"]
    weight: Weight = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


Remainder = Literal["ghost", "uniform"]


class KdLoss(Section):
    """T² KL(teacher || student) on logits over `temperature` (Hinton et al. 2015)."""

    kind: Literal["kd"]
    weight: Weight = 1.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    teacher: str | None = Field(default=None, description="needed where the recipe has several")
    remainder: Remainder = Field(
        default="ghost",
        description="what top_k targets do not keep: one more class, or equal shares of the others",
        exclude_if=lambda remainder: remainder == "ghost",  # fingerprints over a dump are older than this field
    )


class Head(Section):
    """The map from the student's width to the teacher's; dropped at export."""

    kind: Literal["linear", "mlp"] = "linear"
    hidden_width: PositiveInt = 1024


class FeatureLoss(Section):
    """Distance between projected student output and target; `balanced` is 0.9 (1 - cosine) + 0.1 smooth-L1."""

    kind: Literal["feature"]
    output: Literal["summary", "spatial"]
    distance: Literal["cosine", "mse", "balanced"] = "cosine"
    weight: Weight = 1.0
    teacher: str | None = Field(default=None, description="needed where the recipe has several")
    head: Head = Head()
    # fingerprints over a dump are older than these two fields
    standardize: Literal["phi_s"] | None = Field(
        default=None,
        description="targets turned and scaled so that every channel has mean 0 and variance 1 (PHI-S), made once",
        exclude_if=lambda standardize: standardize is None,
    )
    standardize_version: PositiveInt = Field(
        default=1,
        description="2 makes a new transform from what the cache holds by then, and so on",
        exclude_if=lambda version: version == 1,
    )

    @model_validator(mode="after")
    def _version_of_something(self) -> "FeatureLoss":
        if self.standardize is None and self.standardize_version != 1:
            reason = f"standardize_version ({self.standardize_version}) is that of standardize, which is not set"
            raise Misfits([("standardize_version", f"{reason}; set standardize: phi_s, or remove it")])
        return self


MissingTargets = Literal["refuse", "wait", "skip", "live"]
DataWeightMode = Literal["none", "inv_frequency", "inv_sq_frequency", "inv_log_frequency"]
DataWeightBy = Literal["label", "duplicates"]

Loss = Annotated[CrossEntropyLoss | KdLoss | FeatureLoss, Field(discriminator="kind")]


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
