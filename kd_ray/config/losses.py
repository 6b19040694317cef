"""Losses: what a student learns from, and the heads that some of them need."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.heads import AttentionHead, ConvHead, Head, LinearHead

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


class FeatureLoss(Section):
    """Distance between projected student output and target; `balanced` is 0.9 (1 - cosine) + 0.1 smooth-L1."""

    kind: Literal["feature"]
    output: Literal["summary", "spatial"]
    distance: Literal["cosine", "mse", "balanced"] = "cosine"
    weight: Weight = 1.0
    teacher: str | None = Field(default=None, description="needed where the recipe has several")
    head: Head = LinearHead()
    student_stage: int = Field(
        default=-1,
        description="the student's stage (or block) that is compared, as in FitNet's hints; -1 is the last. The "
        "summary of another one is the mean of its map",
        exclude_if=lambda stage: stage == -1,  # fingerprints over a dump are older than this field
    )
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

    @model_validator(mode="after")
    def _head_of_something(self) -> "FeatureLoss":
        if self.output != "spatial" and isinstance(self.head, ConvHead | AttentionHead):
            reason = f"a {self.head.kind} head works on grids, but output is {self.output}; take linear or mlp"
            raise Misfits([("head.kind", reason)])
        return self


Loss = Annotated[CrossEntropyLoss | KdLoss | FeatureLoss, Field(discriminator="kind")]
