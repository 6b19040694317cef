"""Drawing crops that may reach beyond the image. H, W: height and width of a mask in its pixels."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.crops import PaddingCrop, RandomCrop, RandomScaleCrop, ResizePad
from kd_ray.views.bits import Bits
from kd_ray.views.params import PaddedCropParams, ResizePadParams

MAX_PLACES = 10  # that are looked at; the one after them is taken as it is

Mask = NDArray[np.uint8] | NDArray[np.uint16]


def crop_identity(operation: PaddingCrop) -> dict[str, Any]:
    """What of the operation decides params and pixels, as JSON: fields named one by one (see `policy_identity`)."""
    fill = list(operation.fill)
    match operation:
        case RandomCrop():
            return {
                "kind": operation.kind,
                "padding_px": operation.padding_px,
                "reference_px": operation.reference_px,
                "fill": fill,
            }
        case ResizePad():
            return {"kind": operation.kind, "fill": fill}
        case RandomScaleCrop():
            return {
                "kind": operation.kind,
                "ratio_range": list(operation.ratio_range),
                "max_aspect": operation.max_aspect,
                "cat_max_ratio": operation.cat_max_ratio,
                "ignore_label": operation.ignore_label,
                "fill": fill,
            }


def draw_padding_crop(
    operation: PaddingCrop, bits: Bits, *, image_size_px: tuple[int, int], mask_HW: Mask | None
) -> PaddedCropParams | ResizePadParams:
    """One draw for an image of `image_size_px` (height, width) with the class indices `mask_HW`, at any size."""
    match operation:
        case RandomCrop():
            return _random_crop(operation, bits, image_size_px)
        case ResizePad():
            return ResizePadParams(fill=operation.fill)
        case RandomScaleCrop():
            return _random_scale_crop(operation, bits, image_size_px, mask_HW)


def _random_crop(operation: RandomCrop, bits: Bits, image_size_px: tuple[int, int]) -> PaddedCropParams:
    """A square of the shorter side, in steps of 1/reference_px of it from the upper left corner of the padded image.

    Of a longer side, a rest of less than one step at the far end is not reached.
    """
    shorter = min(image_size_px)
    starts = []
    for side in image_size_px:
        num_steps = (side - shorter) * operation.reference_px // shorter + 2 * operation.padding_px
        step = bits.integer_below(num_steps + 1) - operation.padding_px
        starts.append(step * shorter / (operation.reference_px * side))
    top, left = starts
    height, width = (shorter / side for side in image_size_px)
    return PaddedCropParams(left=left, top=top, width=width, height=height, fill=operation.fill)


def _random_scale_crop(
    operation: RandomScaleCrop, bits: Bits, image_size_px: tuple[int, int], mask_HW: Mask | None
) -> PaddedCropParams:
    """mmsegmentation's RandomResize and RandomCrop without rounding to pixels.

    Where the box is larger than the image, what is missing is on the right and at the bottom.
    """
    ratio = bits.uniform_in(*operation.ratio_range)
    elongation = max(image_size_px) / min(image_size_px)
    of_shorter = max(1.0, elongation / operation.max_aspect) / ratio
    of_longer = of_shorter / elongation
    height, width = (of_shorter if side == min(image_size_px) else of_longer for side in image_size_px)

    def placed() -> PaddedCropParams:
        top, left = (max(1.0 - side, 0.0) * bits.uniform() for side in (height, width))
        return PaddedCropParams(left=left, top=top, width=width, height=height, fill=operation.fill)

    crop = placed()
    if operation.cat_max_ratio is None:
        return crop
    assert mask_HW is not None, "cat_max_ratio is about the mask"
    for _ in range(MAX_PLACES):
        if _is_varied(mask_HW, crop, operation.cat_max_ratio, ignore_label=operation.ignore_label):
            break
        crop = placed()
    return crop


def _is_varied(mask_HW: Mask, crop: PaddedCropParams, cat_max_ratio: float, *, ignore_label: int) -> bool:
    """Whether the labelled pixels of the mask in the box are of several classes, none with `cat_max_ratio` of them."""
    rows = _covered(crop.top, crop.height, mask_HW.shape[0])
    columns = _covered(crop.left, crop.width, mask_HW.shape[1])
    counts = np.bincount(mask_HW[rows, columns].ravel(), minlength=ignore_label + 1)
    counts[ignore_label] = 0
    return int(np.count_nonzero(counts)) > 1 and int(counts.max()) < cat_max_ratio * int(counts.sum())


def _covered(start: float, length: float, num_pixels: int) -> slice:
    """The pixels of a mask whose centres lie in a box, given in shares of the side."""
    first, end = (math.ceil(edge * num_pixels - 0.5) for edge in (start, start + length))
    return slice(max(first, 0), min(max(end, 0), num_pixels))
