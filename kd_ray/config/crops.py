"""Crops whose box may reach beyond the image; what lies there is `fill`. Names are those of the libraries they are of.

Lengths that those count in pixels are given in pixels of a view of `reference_px`, and follow the view's size.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.colors import BLACK, IMAGENET_MEAN, Color

MIN_RATIO, MAX_RATIO = 0.1, 10.0
MAX_LABEL = 2**16 - 1  # of a mask of 16 bits


class RandomCrop(Section):
    """torchvision's RandomCrop(reference_px, padding=padding_px) of an image whose shorter side is `reference_px`.

    A square as large as the shorter side, anywhere in the image padded on all sides, in steps of one such pixel.
    """

    kind: Literal["random_crop"]
    padding_px: Annotated[int, Field(ge=0)] = 4
    reference_px: Annotated[int, Field(gt=0, le=4096)] = 32
    fill: Color = BLACK

    @model_validator(mode="after")
    def _shows_some_of_the_image(self) -> "RandomCrop":
        if self.padding_px >= self.reference_px:
            raise ValueError(
                f"padding_px must be less than reference_px = {self.reference_px}, got {self.padding_px}: a view could "
                "show nothing but padding"
            )
        return self


class ResizePad(Section):
    """The letterbox: the whole image, centred, in the smallest box of the view's aspect ratio.

    albumentations' LongestMaxSize and PadIfNeeded, timm's crop_mode border.
    """

    kind: Literal["resize_pad"]
    fill: Color = BLACK


class RandomScaleCrop(Section):
    """mmsegmentation's RandomResize by `ratio_range` and RandomCrop: a square, padded where the image is smaller.

    The image is scaled so that its shorter side is a ratio uniform in `ratio_range` times the side of the crop; one
    longer than `max_aspect` times its shorter side so that the longer is `max_aspect` times that. The crop is placed
    anew, up to ten times, until there are several classes below it and none has `cat_max_ratio` or more of its labelled
    pixels; `ignore_label` is the value of unlabelled ones. null for `cat_max_ratio`: the first place, and no mask.
    """

    kind: Literal["random_scale_crop"]
    ratio_range: tuple[float, float] = (0.5, 2.0)
    max_aspect: Annotated[float, Field(ge=1.0, le=1000.0)] = 4.0
    cat_max_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.75
    ignore_label: Annotated[int, Field(ge=0, le=MAX_LABEL)] = 255
    fill: Color = IMAGENET_MEAN

    @model_validator(mode="after")
    def _is_ordered(self) -> "RandomScaleCrop":
        low, high = self.ratio_range
        if not MIN_RATIO <= low <= high <= MAX_RATIO:
            raise ValueError(
                f"ratio_range must satisfy {MIN_RATIO:g} <= low <= high <= {MAX_RATIO:g}, got {self.ratio_range}"
            )
        return self


PaddingCrop = RandomCrop | ResizePad | RandomScaleCrop
