"""View policies: what may be drawn. How it is drawn and rendered is in `kd_ray.views`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.crops import RandomCrop, RandomScaleCrop, ResizePad
from kd_ray.config.operations import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    Interpolation,
    Operation,
    RandomInterpolation,
    RandomResizedCrop,
    Strength,
)
from kd_ray.config.presets import with_preset

__all__ = [
    "EVALUATION_POLICY",
    "EVALUATION_VIEW_SEED",
    "CenterCrop",
    "ColorJitter",
    "HorizontalFlip",
    "Interpolation",
    "Mix",
    "Operation",
    "Policy",
    "RandomResizedCrop",
    "RendererVersion",
    "SizePx",
    "Views",
]

MAX_SIDE_PX = 2**14  # warps count pixels in 16 bits
SidePx = Annotated[int, Field(gt=0, lt=MAX_SIDE_PX)]
SizePx = Annotated[tuple[SidePx, SidePx], Field(description="(height, width)")]
RendererVersion = Literal[1, 2]
CROPS = (RandomResizedCrop, CenterCrop, RandomCrop, ResizePad, RandomScaleCrop)
MIN_ALPHA = 0.001


class Mix(Section):
    """Mixup and CutMix as timm knows them: each view with one of another sample, labels with the same weight.

    Drawn for every view by itself. The partner is of the same row group.
    """

    mixup_alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    cutmix_alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    switch_probability: Strength = Field(default=0.5, description="of CutMix where both alphas are above 0")
    probability: Strength = 1.0

    @model_validator(mode="after")
    def _mixes_somehow(self) -> "Mix":
        if not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError("give mixup_alpha or cutmix_alpha, or remove mix")
        too_small = [name for name in ("mixup_alpha", "cutmix_alpha") if 0 < getattr(self, name) < MIN_ALPHA]
        if too_small:
            reason = f"must be 0, or {MIN_ALPHA:g} to 1: below, hardly a draw mixes anything"
            raise Misfits([(name, reason) for name in too_small])
        return self


class Policy(Section):
    """A view policy: a crop, then other operations in order; stored digests are of views at `digest_size_px`.

    In a recipe it may be the name of a preset (`policy: lightly`), or a preset and what to change
    (`policy: {preset: lightly, mix: null}`).
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    operations: Annotated[tuple[Operation, ...], Field(min_length=1)]
    mix: Mix | None = None
    digest_size_px: SizePx = (32, 32)
    renderer_version: RendererVersion = Field(
        default=1, description="2 resizes in half the time; its pixels differ from those of 1 by rounding"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return with_preset(values)

    @model_validator(mode="after")
    def _crop_comes_first(self) -> "Policy":
        crops = [isinstance(operation, CROPS) for operation in self.operations]
        found = []
        if not crops[0] or sum(crops) != 1:
            found.append(
                "operations must start with its only crop: random_resized_crop, center_crop, random_crop, resize_pad "
                "or random_scale_crop"
            )
        if sum(isinstance(operation, RandomInterpolation) for operation in self.operations) > 1:
            found.append("random_interpolation can be given once: there is one crop to resample")
        if found:
            raise Misfits([("operations", reason) for reason in found])
        return self

    @property
    def reads_masks(self) -> bool:
        """Whether the sample's mask decides where the crop lies."""
        return any(isinstance(each, RandomScaleCrop) and each.cat_max_ratio is not None for each in self.operations)


class Views(Section):
    """Which views of each training sample the teacher sees: `count` draws from `policy` under `seed`."""

    policy: Policy
    seed: int = 0
    count: Annotated[int, Field(gt=0)] = 4
    verify: Annotated[int, Field(gt=0)] | Literal["all"] = Field(
        default=256, description="training checks the digest of one view in this many, or of all"
    )

    @property
    def verify_one_in(self) -> int:
        return 1 if self.verify == "all" else self.verify


EVALUATION_VIEW_SEED = 0
EVALUATION_POLICY = Policy(name="evaluation", operations=(CenterCrop(kind="center_crop"),))
