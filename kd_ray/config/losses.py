"""Losses: what a student learns from, and the heads that some of them need."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.heads import AttentionHead, ConvHead, Head, LinearHead

Weight = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class WeightSchedule(Section):
    """A factor of a loss's weight: from `start` to `end` over the first `fraction` of the run, then `end`."""

    kind: Literal["linear", "cosine"] = "linear"
    start: Factor = 0.0
    end: Factor = 1.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0


class WeightedLoss(Section):
    """What every loss has."""

    weight: Weight = 1.0
    weight_schedule: WeightSchedule | None = Field(
        default=None,
        description="a factor of weight that changes over the run",
        exclude_if=lambda schedule: schedule is None,  # fingerprints over a dump are older than this field
    )


class CrossEntropyLoss(WeightedLoss):
    """Cross-entropy with the label, averaged over the batch; a sample without a label counts 0."""

    kind: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


Remainder = Literal["ghost", "uniform"]


class LogitsLoss(WeightedLoss):
    """What losses on a teacher's logits share."""

    temperature: Positive = 1.0
    teacher: str | None = Field(default=None, description="needed where the recipe has several")

    @property
    def takes_top_k(self) -> bool:
        """Whether the k greatest logits are enough."""
        return False


class KdLoss(LogitsLoss):
    """T² KL(teacher || student) on logits over `temperature` (Hinton et al. 2015)."""

    kind: Literal["kd"]
    remainder: Remainder = Field(
        default="ghost",
        description="what top_k targets do not keep: one more class, or equal shares of the others",
        exclude_if=lambda remainder: remainder == "ghost",  # fingerprints over a dump are older than this field
    )
    standardize_logits: bool = Field(
        default=False,
        description="both logits get mean 0 and deviation 1 over the classes first (Sun et al. 2024)",
        exclude_if=lambda standardize: not standardize,  # fingerprints over a dump are older than this field
    )

    @property
    def takes_top_k(self) -> bool:
        """Unless the mean and the deviation of all logits are needed."""
        return not self.standardize_logits


class DistLoss(LogitsLoss):
    """T² (beta (1 - correlation over classes) + gamma (1 - correlation over the batch)) (Huang et al. 2022)."""

    kind: Literal["dist"]
    beta: Factor = 1.0
    gamma: Factor = 1.0

    @model_validator(mode="after")
    def _something_counts(self) -> "DistLoss":
        if self.beta == 0 and self.gamma == 0:
            raise Misfits([("beta", "beta and gamma are both 0, which leaves no loss; give one of them a value")])
        return self


class DkdLoss(LogitsLoss):
    """T² (alpha KL of target against the rest + beta KL among the rest) (Zhao et al. 2022).

    The target class is the label; of a sample without one it is the teacher's greatest logit.
    """

    kind: Literal["dkd"]
    temperature: Positive = 4.0
    alpha: Factor = 1.0
    beta: Factor = 8.0

    @model_validator(mode="after")
    def _something_counts(self) -> "DkdLoss":
        if self.alpha == 0 and self.beta == 0:
            raise Misfits([("alpha", "alpha and beta are both 0, which leaves no loss; give one of them a value")])
        return self


class BinaryKdLoss(LogitsLoss):
    """T² KL between sigmoids, class by class: for images of several labels."""

    kind: Literal["binary_kd"]


class OnFeatures(WeightedLoss):
    """What losses on a student's summary or map share."""

    output: Literal["summary", "spatial"]
    teacher: str | None = Field(default=None, description="needed where the recipe has several")
    student_stage: int = Field(
        default=-1,
        description="the student's stage (or block) that is compared, as in FitNet's hints; -1 is the last. The "
        "summary of another one is the mean of its map",
        exclude_if=lambda stage: stage == -1,  # fingerprints over a dump are older than this field
    )
    head: Head | None = LinearHead()
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
    def _version_of_something(self) -> "OnFeatures":
        if self.standardize is None and self.standardize_version != 1:
            reason = f"standardize_version ({self.standardize_version}) is that of standardize, which is not set"
            raise Misfits([("standardize_version", f"{reason}; set standardize: phi_s, or remove it")])
        return self

    @model_validator(mode="after")
    def _head_of_something(self) -> "OnFeatures":
        if self.output != "spatial" and isinstance(self.head, ConvHead | AttentionHead):
            reason = f"a {self.head.kind} head works on grids, but output is {self.output}; take linear or mlp"
            raise Misfits([("head.kind", reason)])
        return self


Distance = Literal[
    "cosine",
    "mse",
    "balanced",
    "l1",
    "smooth_l1",
    "fd",
    "angle",
    "tangent_sphere",
    "dampened_mse",
    "attention_transfer",
]


class FeatureLoss(OnFeatures):
    """Distance between projected student output and target; `balanced` is c (1 - cosine) + (1 - c) smooth-L1, c being
    `cosine_share`.
    """

    kind: Literal["feature"]
    distance: Distance = "cosine"
    # fingerprints over a dump are older than these two fields
    beta: Positive | None = Field(
        default=None,
        description="where the square of smooth-L1 ends; null: 1 of smooth_l1, 2 of balanced",
        exclude_if=lambda beta: beta is None,
    )
    cosine_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.9, description="of balanced", exclude_if=lambda share: share == 0.9
    )

    @model_validator(mode="after")
    def _distance_fits(self) -> "FeatureLoss":
        found = []
        if self.beta is not None and self.distance not in ("smooth_l1", "balanced"):
            found.append(("beta", f"is of smooth_l1 and balanced, but distance is {self.distance}; remove it"))
        if self.cosine_share != 0.9 and self.distance != "balanced":
            found.append(("cosine_share", f"is of balanced, but distance is {self.distance}; remove it"))
        if self.distance == "attention_transfer" and self.output != "spatial":
            found.append(("output", "attention_transfer compares where maps are strong; set spatial"))
        if self.head is None and self.distance != "attention_transfer":
            reason = f"{self.distance} compares channel by channel and needs a head to the teacher's width"
            found.append(("head", f"{reason}; set one, or take a loss of kind relational"))
        if found:
            raise Misfits(found)
        return self


Relation = Literal["rkd_distance", "rkd_angle", "similarity_preserving", "cka", "token_similarity"]


class RelationalLoss(OnFeatures):
    """How samples (or an image's tokens) stand to each other, in the student as in the teacher; it needs no head."""

    kind: Literal["relational"]
    distance: Relation
    head: Head | None = None
    temperature: Positive = Field(default=0.07, description="of token_similarity")

    @model_validator(mode="after")
    def _distance_fits(self) -> "RelationalLoss":
        found = []
        if self.distance == "token_similarity" and self.output != "spatial":
            found.append(("output", "token_similarity compares the tokens of an image; set spatial"))
        if self.temperature != 0.07 and self.distance != "token_similarity":
            found.append(("temperature", f"is of token_similarity, but distance is {self.distance}; remove it"))
        if found:
            raise Misfits(found)
        return self


class ContrastiveLoss(OnFeatures):
    """KL between the similarities that both have to a queue of the teacher's last summaries."""

    kind: Literal["contrastive"]
    output: Literal["summary"] = "summary"
    temperature: Positive = 0.07
    queue_size: PositiveInt = Field(default=8192, description="targets that are kept; the oldest leave first")

    @model_validator(mode="after")
    def _has_a_head(self) -> "ContrastiveLoss":
        if self.head is None:
            reason = "the student's summary is compared with the teacher's; set a head to its width"
            raise Misfits([("head", reason)])
        return self


Loss = Annotated[
    CrossEntropyLoss | KdLoss | DistLoss | DkdLoss | BinaryKdLoss | FeatureLoss | RelationalLoss | ContrastiveLoss,
    Field(discriminator="kind"),
]
