"""View policies: what may be drawn. How it is drawn and rendered is in `kd_ray.views`."""

from itertools import chain, combinations
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.crops import RandomCrop, RandomScaleCrop, ResizePad
from kd_ray.config.kept import DEFAULT_QUALITY, KeptCodec, KeptFormat
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
    "NAMELESS",
    "NEWEST_RENDERER",
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
    "ViewKind",
    "Views",
]

MAX_SIDE_PX = 2**14  # warps count pixels in 16 bits
SidePx = Annotated[int, Field(gt=0, lt=MAX_SIDE_PX)]
SizePx = Annotated[tuple[SidePx, SidePx], Field(description="(height, width)")]
RendererVersion = Literal[1, 2]
CROPS = (RandomResizedCrop, CenterCrop, RandomCrop, ResizePad, RandomScaleCrop)
MIN_ALPHA = 0.001
NEWEST_RENDERER: RendererVersion = 2
KindName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
NAMELESS = ""  # the only kind of a policy that has no kinds


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


class ViewKind(Section):
    """One kind of a policy's views: what is drawn, how many of them a draw of a sample has, and their size.

    `size_px` null is each model's own `input.size_px`.
    """

    operations: tuple[Operation, ...]
    num_crops: Annotated[int, Field(gt=0)] = 1
    size_px: SizePx | None = None

    @model_validator(mode="after")
    def _crop_comes_first(self) -> "ViewKind":
        _check_operations(self.operations)
        return self


class Policy(Section):
    """A view policy: a crop, then other operations in order; stored digests are of views at `digest_size_px`.

    In a recipe it may be the name of a preset (`policy: lightly`), or a preset and what to change
    (`policy: {preset: lightly, mix: null}`). With `kinds` instead of `operations`, a sample comes with views of each.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    # what a policy does not use is not dumped: fingerprints over a dump are older than these fields
    operations: tuple[Operation, ...] = Field(default=(), exclude_if=lambda operations: not operations)
    kinds: dict[KindName, ViewKind] = Field(default={}, exclude_if=lambda kinds: not kinds)
    mix: Mix | None = None
    digest_size_px: SizePx = (32, 32)
    renderer_version: RendererVersion = Field(
        default=NEWEST_RENDERER, description="1 made the views of older caches; the pixels differ by rounding"
    )
    repeats: Annotated[int, Field(gt=0)] = Field(
        default=1, description="a sample's draws in one batch", exclude_if=lambda repeats: repeats == 1
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return with_preset(values)

    @model_validator(mode="after")
    def _operations_or_kinds(self) -> "Policy":
        if bool(self.operations) == bool(self.kinds):
            given = "both are given" if self.kinds else "neither is given"
            raise ValueError(f"give either operations (views of one kind) or kinds (several, by name); {given}")
        if not self.kinds:
            _check_operations(self.operations)
            return self
        found = []
        if self.mix is not None:
            reason = (
                "each kind would draw another partner and weight, so that the views of one turn were of other images. "
                "Remove mix, or give operations instead of kinds"
            )
            found.append(("mix", reason))
        found += [
            (f"kinds.{second}", f"draws the very views of {first!r}: same operations. Change them, or raise num_crops")
            for first, second in combinations(self.kinds, 2)
            if self.kinds[first].operations == self.kinds[second].operations
        ]
        if found:
            raise Misfits(found)
        return self

    @property
    def reads_masks(self) -> bool:
        """Whether the sample's mask decides where a crop lies."""
        drawn = (self.operations, *(kind.operations for kind in self.kinds.values()))
        return any(isinstance(each, RandomScaleCrop) and each.cat_max_ratio is not None for each in chain(*drawn))

    @property
    def kind_names(self) -> tuple[str, ...]:
        """The kinds of views in the recipe's order; one nameless kind where there are `operations`."""
        return tuple(self.kinds) or (NAMELESS,)

    def of_kind(self, name: str) -> "Policy":
        """The views of one kind as a policy of their own, which has no kinds and no repeats."""
        if name == NAMELESS:
            return self.model_copy(update={"repeats": 1})
        changes = {"name": f"{self.name}_{name}", "operations": self.kinds[name].operations, "kinds": {}, "repeats": 1}
        return self.model_copy(update=changes)

    def num_crops(self, kind: str) -> int:
        """How many views of this kind one draw of a sample has."""
        return 1 if kind == NAMELESS else self.kinds[kind].num_crops

    def size_px(self, kind: str) -> SizePx | None:
        """The size of this kind; None for each model's own."""
        return None if kind == NAMELESS else self.kinds[kind].size_px


def _check_operations(operations: tuple[Operation, ...]) -> None:
    crops = [isinstance(operation, CROPS) for operation in operations]
    found = []
    if not crops or not crops[0] or sum(crops) != 1:
        found.append(
            "operations must start with its only crop: random_resized_crop, center_crop, random_crop, resize_pad "
            "or random_scale_crop"
        )
    if sum(isinstance(operation, RandomInterpolation) for operation in operations) > 1:
        found.append("random_interpolation can be given once: there is one crop to resample")
    if found:
        raise Misfits([("operations", reason) for reason in found])


class Views(Section):
    """Which views of each training sample the teacher sees: `count` draws from `policy` under `seed`.

    Of a kind with several crops there are as many times more views.
    """

    policy: Policy
    seed: int = 0
    count: Annotated[int, Field(gt=0)] = 4
    verify: Annotated[int, Field(gt=0)] | Literal["all"] = Field(
        default=256, description="added teachers and training check the digest of one view in this many, or of all"
    )
    keep: Literal["params", "pixels"] = Field(
        default="params", description="pixels stores each rendered view, from which teachers and students resize"
    )
    pixels_size_px: SizePx | None = None
    pixels_codec: KeptCodec | None = Field(default=None, description="of kept pixels; jpeg unless given")
    pixels_quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description=f"of jpeg and webp; {DEFAULT_QUALITY} unless given. WebP is lossless at 100"
    )

    @model_validator(mode="after")
    def _pixels_fit(self) -> "Views":
        problems = self._problems_of_params() if self.keep == "params" else self._problems_of_pixels()
        if problems:
            raise Misfits(problems)
        return self

    @model_validator(mode="after")
    def _enough_to_repeat(self) -> "Views":
        repeats = self.policy.repeats
        if repeats > self.count:
            reason = (
                f"{repeats} draws of a sample in one batch, but views.count is {self.count}: the same view would come "
                f"twice. Raise views.count to {repeats}, or lower repeats"
            )
            raise Misfits([("policy.repeats", reason)])
        return self

    @property
    def verify_one_in(self) -> int:
        return 1 if self.verify == "all" else self.verify

    def num_views(self, kind: str) -> int:
        """How many views of this kind are stored of a sample."""
        return self.count * self.policy.num_crops(kind)

    def kept(self, kind: str) -> KeptFormat | None:
        """How the pixels of views of this kind are stored, at its own size if it has one; None where they are not."""
        if self.keep == "params":
            return None
        size_px = self.policy.size_px(kind) or self.pixels_size_px
        assert size_px is not None  # as validated
        codec = self.pixels_codec or "jpeg"
        quality = None if codec == "raw" else self.pixels_quality or DEFAULT_QUALITY
        return KeptFormat(size_px=size_px, codec=codec, quality=quality)

    def _problems_of_params(self) -> list[tuple[str, str]]:
        names = ("pixels_size_px", "pixels_codec", "pixels_quality")
        given = [name for name in names if getattr(self, name) is not None]
        return [(name, "no pixels are kept: views.keep is params. Set keep: pixels, or remove this") for name in given]

    def _problems_of_pixels(self) -> list[tuple[str, str]]:
        found = []
        if self.pixels_codec == "raw" and self.pixels_quality is not None:
            found.append(("pixels_quality", "raw pixels have none. Remove it, or set pixels_codec to jpeg or webp"))
        sizeless = any(self.policy.size_px(kind) is None for kind in self.policy.kind_names)
        if self.pixels_size_px is None and sizeless:
            found.append(("pixels_size_px", "keep: pixels needs the (height, width) at which views are stored"))
        if self.pixels_size_px is not None and not sizeless:
            found.append(("pixels_size_px", "every kind of views has a size_px, at which it is stored. Remove this"))
        return found


EVALUATION_VIEW_SEED = 0
EVALUATION_POLICY = Policy(name="evaluation", operations=(CenterCrop(kind="center_crop"),))
