"""The operations of view policies, with the names and defaults that torchvision v2 and timm gave them.

Lengths that those count in pixels are given in pixels of a view of `reference_px`, and follow the view's size.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.colors import BLACK, IMAGENET_MEAN, Color
from kd_ray.config.crops import PaddingCrop

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Strength = Annotated[float, Field(ge=0.0, le=1.0)]
Range = tuple[float, float]
NUM_BINS = 31  # torchvision's num_magnitude_bins
MAX_TIMM_MAGNITUDE = 10
MIN_AREA = 1e-6  # of a crop: far below a pixel of any photograph, and far above where a box has no area by rounding
MIN_RATIO, MAX_RATIO = 0.01, 100.0


class RandomResizedCrop(Section):
    """torchvision's RandomResizedCrop: area in `scale`, aspect ratio in `ratio`, ten tries, then a centre crop."""

    kind: Literal["random_resized_crop"]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ordered(self) -> "RandomResizedCrop":
        _refuse(
            _out_of_range("scale", self.scale, low=MIN_AREA, high=1.0),
            _out_of_range("ratio", self.ratio, low=MIN_RATIO, high=MAX_RATIO),
        )
        return self


class CenterCrop(Section):
    """The evaluation view: shorter side to size / `crop_fraction`, then the centre (timm's crop_pct)."""

    kind: Literal["center_crop"]
    crop_fraction: Annotated[float, Field(ge=0.001, le=1.0)] = 1.0


class HorizontalFlip(Section):
    """Mirror left to right with `probability`."""

    kind: Literal["horizontal_flip"]
    probability: Strength = 0.5


class ColorJitter(Section):
    """torchvision's ColorJitter: factors in [1 - x, 1 + x], hue shift in [-hue, hue] turns, in a drawn order."""

    kind: Literal["color_jitter"]
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    probability: Strength = 1.0


class PhotometricDistortion(Section):
    """mmsegmentation's PhotoMetricDistortion (of SSD, Liu et al. 2016): each of its four with `probability`.

    Up to `brightness_delta` levels added or taken away; levels times a factor in `contrast_range`, before the next two
    or after them; HSV saturation times a factor in `saturation_range`; hue turned by up to `hue_delta` of OpenCV's
    180 in a turn.
    """

    kind: Literal["photometric_distortion"]
    brightness_delta: Annotated[float, Field(ge=0.0, le=255.0)] = 32.0
    contrast_range: Range = (0.5, 1.5)
    saturation_range: Range = (0.5, 1.5)
    hue_delta: Annotated[float, Field(ge=0.0, le=90.0)] = 18.0
    probability: Strength = 0.5

    @model_validator(mode="after")
    def _is_ordered(self) -> "PhotometricDistortion":
        _refuse(
            _out_of_range("contrast_range", self.contrast_range, low=0.0, high=10.0),
            _out_of_range("saturation_range", self.saturation_range, low=0.0, high=10.0),
        )
        return self


class VerticalFlip(Section):
    """Mirror top to bottom with `probability`."""

    kind: Literal["vertical_flip"]
    probability: Strength = 0.5


class RandomGrayscale(Section):
    """All colour taken away with `probability`."""

    kind: Literal["random_grayscale"]
    probability: Strength = 0.1


class GaussianBlur(Section):
    """Blurred with a standard deviation uniform in `sigma`, in pixels of a view of `reference_px`."""

    kind: Literal["gaussian_blur"]
    sigma: Range = (0.1, 2.0)
    reference_px: Annotated[int, Field(gt=0)] = 224
    probability: Strength = 1.0

    @model_validator(mode="after")
    def _is_ordered(self) -> "GaussianBlur":
        _refuse(_out_of_range("sigma", self.sigma, low=0.0, high=self.reference_px / 4, why=" (reference_px / 4)"))
        return self


class Solarize(Section):
    """Levels from `threshold` (a share of 255) up are inverted, with `probability`."""

    kind: Literal["solarize"]
    threshold: Strength = 0.5
    probability: Strength = 0.5


class Posterize(Section):
    """Only the upper `bits` of every level are kept, with `probability`."""

    kind: Literal["posterize"]
    bits: Annotated[int, Field(ge=0, le=8)]
    probability: Strength = 0.5


class Equalize(Section):
    """The histogram of each channel made flat, with `probability`."""

    kind: Literal["equalize"]
    probability: Strength = 0.5


class Autocontrast(Section):
    """Each channel stretched to 0 … 255, with `probability`."""

    kind: Literal["autocontrast"]
    probability: Strength = 0.5


class Sharpness(Section):
    """Away from (`factor` above 1) or towards (below 1) the smoothed view, with `probability`."""

    kind: Literal["sharpness"]
    factor: Annotated[float, Field(ge=0.0, le=20.0)]
    probability: Strength = 0.5


class Invert(Section):
    """The negative, with `probability`."""

    kind: Literal["invert"]
    probability: Strength = 0.5


class RandomAffine(Section):
    """torchvision's RandomAffine: angle clockwise in `degrees`, shift of up to `translate` of a side, `scale`, `shear`.

    `shear` is (low, high) of x, then of y, in degrees. What comes from outside the view is `fill`.
    """

    kind: Literal["random_affine"]
    degrees: Range = (0.0, 0.0)
    translate: tuple[Strength, Strength] = (0.0, 0.0)
    scale: Range = (1.0, 1.0)
    shear: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    interpolation: Interpolation = "nearest"
    fill: Color = BLACK
    probability: Strength = 1.0

    @model_validator(mode="after")
    def _is_ordered(self) -> "RandomAffine":
        _refuse(
            _out_of_range("degrees", self.degrees, low=-360.0, high=360.0),
            _out_of_range("scale", self.scale, low=0.05, high=20.0),
            _out_of_range("shear", self.shear[:2], low=-80.0, high=80.0, why=" for x"),
            _out_of_range("shear", self.shear[2:], low=-80.0, high=80.0, why=" for y"),
        )
        return self


class RandomPerspective(Section):
    """torchvision's RandomPerspective: each corner moves inwards by up to `distortion_scale` of half a side."""

    kind: Literal["random_perspective"]
    distortion_scale: Strength = 0.5
    probability: Strength = 0.5
    interpolation: Interpolation = "bilinear"
    fill: Color = BLACK


class RandAugment(Section):
    """`num_ops` operations at one `magnitude` (Cubuk et al. 2019), from the list of timm or of torchvision.

    timm: magnitude 0 to 10, each time with Gaussian noise of `magnitude_std`; "inc1" of its strings is `increasing`.
    torchvision: magnitude 0 to 30, a whole number. `probability` of each operation, the `interpolations` of warps (one
    is drawn each time) and `fill` are the source's own where they are not given.
    """

    kind: Literal["rand_augment"]
    source: Literal["timm", "torchvision"] = "timm"
    num_ops: Annotated[int, Field(ge=0, le=100)] = 2
    magnitude: Annotated[float, Field(ge=0.0)] = 9.0
    magnitude_std: Annotated[float, Field(ge=0.0)] = 0.0
    increasing: bool = False
    probability: Strength
    interpolations: Annotated[tuple[Interpolation, ...], Field(min_length=1)]
    fill: Color

    @model_validator(mode="before")
    @classmethod
    def _of_its_source(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("source", "timm") == "timm":
            return {"probability": 0.5, "interpolations": ("bilinear", "bicubic"), "fill": IMAGENET_MEAN, **values}
        return {"probability": 1.0, "interpolations": ("nearest",), "fill": BLACK, **values}

    @model_validator(mode="after")
    def _is_known_to_its_source(self) -> "RandAugment":
        if self.source == "timm":
            too_large = f"timm's magnitude goes from 0 to {MAX_TIMM_MAGNITUDE}, got {self.magnitude}"
            _refuse([("magnitude", too_large)] if self.magnitude > MAX_TIMM_MAGNITUDE else [])
            return self
        no_bin = f"torchvision's magnitude is a whole number of 0 to {NUM_BINS - 1}, got {self.magnitude}"
        _refuse(
            [("magnitude", no_bin)] if self.magnitude >= NUM_BINS or self.magnitude % 1 else [],
            [
                (name, "is timm's; leave it out, or take source: timm")
                for name in ("magnitude_std", "increasing")
                if getattr(self, name)
            ],
        )
        return self


class TrivialAugmentWide(Section):
    """torchvision's TrivialAugmentWide (Müller and Hutter 2021): one operation at one of 31 magnitudes.

    Translations of up to 32 pixels of a view of `reference_px`.
    """

    kind: Literal["trivial_augment_wide"]
    interpolation: Interpolation = "nearest"
    fill: Color = BLACK
    reference_px: Annotated[int, Field(gt=0)] = 224


class RandomErasing(Section):
    """A box of `scale` of the view's area and of aspect ratio (height / width) in `ratio`, replaced with `probability`.

    `value`: `zero` is black, `mean` is ImageNet's (timm's `const`, which erases after normalisation), `noise` is normal
    with ImageNet's mean and spread for each level (timm's `pixel`), fixed by the draw at each size.
    """

    kind: Literal["random_erasing"]
    probability: Strength = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: Literal["zero", "mean", "noise"] = "zero"

    @model_validator(mode="after")
    def _is_ordered(self) -> "RandomErasing":
        _refuse(
            _out_of_range("scale", self.scale, low=0.0, high=1.0),
            _out_of_range("ratio", self.ratio, low=MIN_RATIO, high=MAX_RATIO),
        )
        if not self.scale[1]:
            raise Misfits([("scale", "nothing would be erased; raise it, or remove the operation")])
        squarest = min(max(1.0, self.ratio[0]), self.ratio[1])
        if self.scale[0] * max(squarest, 1.0 / squarest) >= 1.0:
            reason = (
                f"no box of at least {self.scale[0]:g} of the area and a ratio in {self.ratio} is smaller than a view"
            )
            raise Misfits([("scale", f"{reason}; lower scale, or let ratio reach 1")])
        return self


class RandomInterpolation(Section):
    """The crop is resampled by one of `choices`, whatever the model's own interpolation (timm's `random`)."""

    kind: Literal["random_interpolation"]
    choices: Annotated[tuple[Interpolation, ...], Field(min_length=1)] = ("bilinear", "bicubic")


StepOperation = (
    PhotometricDistortion
    | VerticalFlip
    | RandomGrayscale
    | GaussianBlur
    | Solarize
    | Posterize
    | Equalize
    | Autocontrast
    | Sharpness
    | Invert
    | RandomAffine
    | RandomPerspective
    | RandAugment
    | TrivialAugmentWide
    | RandomErasing
)
Operation = Annotated[
    RandomResizedCrop | CenterCrop | PaddingCrop | HorizontalFlip | ColorJitter | RandomInterpolation | StepOperation,
    Field(discriminator="kind"),
]


def _out_of_range(
    name: str, values: tuple[float, ...], *, low: float, high: float, why: str = ""
) -> list[tuple[str, str]]:
    """What to say of the field `name` where its `values` (low, high) are not ordered in [`low`, `high`]."""
    if low <= values[0] <= values[1] <= high:
        return []
    return [(name, f"{name} must satisfy {low:g} <= low <= high <= {high:g}{why}, got {values}")]


def _refuse(*found: list[tuple[str, str]]) -> None:
    """Raises Misfits with all that was found."""
    problems = [problem for each in found for problem in each]
    if problems:
        raise Misfits(problems)
