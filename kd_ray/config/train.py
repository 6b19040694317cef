"""How students are trained."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.loop import Duration, EarlyStopping, Ema
from kd_ray.config.losses import Loss, OnFeatures
from kd_ray.config.methods import Method, expanded
from kd_ray.config.optim import Optimizer, Schedule, rate_misfits
from kd_ray.config.resources import Resources
from kd_ray.config.tracking import Tracking

MissingTargets = Literal["refuse", "wait", "skip", "live"]
DataWeightMode = Literal["none", "inv_frequency", "inv_sq_frequency", "inv_log_frequency"]
DataWeightBy = Literal["label", "duplicates"]
Precision = Literal["float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp"]


class Mutual(Section):
    """Two students in one loop: each also learns from the other's logits, by `weight` T² KL(other || own)."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 1.0


class Train(Section):
    """How students are trained; `global_batch_size` is over all workers, `lanes` fix the order for any number."""

    losses: Annotated[tuple[Loss, ...], Field(min_length=1)]
    method: Method | None = Field(
        default=None,
        description="a known method by name, in place of losses; it is shown, stored and fingerprinted as what it "
        "stands for",
        exclude=True,
    )
    # fingerprints over a dump are older than these two fields
    balance: Literal["fixed", "uncertainty", "ema"] = Field(
        default="fixed",
        description="what each of several teachers counts: the weights of its losses as they are, times a learnt "
        "factor (Kendall et al. 2018), or over the running mean of its losses",
        exclude_if=lambda balance: balance == "fixed",
    )
    teacher_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="the probability at which each of several teachers but one is left out of a sample at a step",
        exclude_if=lambda probability: probability == 0.0,
    )
    mutual: Mutual | None = Field(
        default=None,
        description="the two students of the recipe train together and learn from each other (Zhang et al. 2018)",
        exclude_if=lambda mutual: mutual is None,
    )
    targets: Literal["cached", "live"] = "cached"
    views: Literal["cached", "fresh"] = Field(
        default="cached",
        description="fresh: at every turn of an image a view that was never seen before, which needs targets: live",
        exclude_if=lambda views: views == "cached",  # fingerprints over a dump are older than this field
    )
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
    # fingerprints over a dump are older than the fields from here to early_stopping
    precision: Precision = Field(
        default="float32",
        description="of the student's forward and backward pass; its weights and the losses stay float32",
        exclude_if=lambda precision: precision == "float32",
    )
    accumulate_batches: PositiveInt = Field(
        default=1,
        description="each worker's share of a batch goes through the student in so many pieces",
        exclude_if=lambda count: count == 1,
    )
    channels_last: bool = Field(default=False, exclude_if=lambda value: not value)
    compile: bool = Field(default=False, description="torch.compile the student", exclude_if=lambda value: not value)
    sync_batch_norm: bool = Field(
        default=False,
        description="statistics over the batch of all workers; on GPUs",
        exclude_if=lambda value: not value,
    )
    deterministic: bool = Field(
        default=False,
        description="only algorithms that repeat themselves bit for bit",
        exclude_if=lambda value: not value,
    )
    parallel: Parallel = Field(
        default="ddp",
        description="fsdp shares out the weights and the optimiser's state, too",
        exclude_if=lambda parallel: parallel == "ddp",
    )
    ema: Ema | None = Field(default=None, exclude_if=lambda ema: ema is None)
    average_best: PositiveInt | None = Field(
        default=None,
        description="export the mean of the weights of so many best evaluations",
        exclude_if=lambda count: count is None,
    )
    max_steps: PositiveInt | None = Field(default=None, exclude_if=lambda steps: steps is None)
    max_time: Duration | None = Field(
        default=None, description="of training one student, as 90m or 2h", exclude_if=lambda duration: duration is None
    )
    early_stopping: EarlyStopping | None = Field(default=None, exclude_if=lambda stopping: stopping is None)
    tracking: Tracking = Tracking()
    seed: int = 0
    reference: bool = Field(default=False, description="train the same student, same steps, on the labels alone")
    log_every_steps: PositiveInt = 20
    evaluate_every_steps: PositiveInt = 200
    checkpoint_every_steps: PositiveInt = 500
    max_failures: Annotated[int, Field(ge=0)] = 3
    max_parallel_students: PositiveInt | None = Field(
        default=None, description="of several students, how many train at the same time; null: as many as there is room"
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_method(cls, values: Any) -> Any:
        return expanded(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _parts_fit(self) -> "Train":
        found = []
        if self.global_batch_size % self.lanes:
            reason = f"global_batch_size ({self.global_batch_size}) must be a multiple of lanes ({self.lanes})"
            found.append(("global_batch_size", reason))
        if self.lanes % self.num_workers:
            found.append(("lanes", f"lanes ({self.lanes}) must be a multiple of num_workers ({self.num_workers})"))
        found += rate_misfits(self.optimizer, self.schedule)
        found += self._parallel_misfits() + self._averaging_misfits()
        if self.targets == "live":
            reason = "standardize is made from cached targets; set targets: cached, or remove it"
            found += [
                (f"losses.{index}.standardize", reason)
                for index, loss in enumerate(self.losses)
                if isinstance(loss, OnFeatures) and loss.standardize is not None
            ]
        if self.views == "fresh" and self.targets == "cached":
            reason = "a view that was never seen before has no cached targets; set targets: live, or views: cached"
            found.append(("views", reason))
        if self.mutual is not None:
            alone = {
                "parallel": self.parallel == "fsdp",
                "balance": self.balance != "fixed",
                "teacher_dropout": self.teacher_dropout > 0,
            }
            reason = "it is for students that train alone; remove it, or mutual"
            found += [(key, reason) for key, is_given in alone.items() if is_given]
        if self.mutual is not None and self.missing_targets in ("skip", "live"):
            reason = (
                f"missing_targets: {self.missing_targets} is for one student; take refuse or wait, or remove mutual"
            )
            found.append(("missing_targets", reason))
        if self.targets == "live" and self.missing_targets != "refuse":
            reason = f"missing_targets: {self.missing_targets} is about cached targets, but targets is live; remove one"
            found.append(("missing_targets", reason))
        if found:
            raise Misfits(found)
        return self

    def _parallel_misfits(self) -> list[tuple[str, str]]:
        found = []
        pieces = self.num_workers * self.accumulate_batches
        if self.global_batch_size % pieces:
            reason = (
                f"global_batch_size ({self.global_batch_size}) must be a multiple of num_workers times it ({pieces})"
            )
            found.append(("accumulate_batches", reason))
        if self.sync_batch_norm and not self.resources_per_worker.num_gpus:
            reason = "PyTorch shares the statistics of GPUs alone; set resources_per_worker.num_gpus, or remove it"
            found.append(("sync_batch_norm", reason))
        if self.parallel == "fsdp" and self.num_workers == 1:
            found.append(("parallel", "fsdp shares out over workers, but num_workers is 1; set more, or ddp"))
        if self.parallel == "fsdp" and self.precision == "float16":
            found.append(("precision", "float16 is not scaled under fsdp; set bfloat16, or parallel: ddp"))
        if self.parallel == "fsdp" and self.optimizer.kind in ("lamb", "lars"):
            reason = f"{self.optimizer.kind} needs the norms of whole weights, which fsdp shares out; set adamw or sgd"
            found.append(("optimizer.kind", reason))
        return found

    def _averaging_misfits(self) -> list[tuple[str, str]]:
        found = []
        if self.ema is not None and self.average_best is not None:
            found.append(("average_best", "one average can be exported, but ema is set too; remove one"))
        if all(isinstance(loss, OnFeatures) for loss in self.losses):
            reason = "needs the top-1 of evaluations, but no loss is on the logits; remove it"
            wanted = {"average_best": self.average_best, "early_stopping": self.early_stopping}
            found += [(name, reason) for name, value in wanted.items() if value is not None]
        return found

    def num_steps(self, num_samples: int) -> int:
        """How many batches a run takes on a corpus with so many training samples; at least one."""
        steps_per_epoch = self.steps_per_epoch or num_samples / self.global_batch_size
        num_steps = max(round(self.epochs * steps_per_epoch), 1)
        return num_steps if self.max_steps is None else min(num_steps, self.max_steps)
