"""From an image and view params to pixels: deterministic, and the same on every x86-64 CPU under the lock file.

H, W: height and width in pixels; 3: red, green, blue.
"""

import cv2
import numpy as np
from PIL import Image

from kd_ray.config.views import NEWEST_RENDERER, Interpolation, RendererVersion
from kd_ray.views.color import Pixels, as_pixels, jitter
from kd_ray.views.mix import mix_pixels
from kd_ray.views.padding import resample_padded, snapped, with_border
from kd_ray.views.params import (
    CenterCropParams,
    Crop,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    OperationParams,
    PaddedCropParams,
    ResamplingParams,
    ResizePadParams,
    StepsParams,
    ViewParams,
    mix_of,
)
from kd_ray.views.resample import BoxPx, can_resample, resample
from kd_ray.views.steps import apply_step


def render(
    image_HW3: Pixels,
    params: ViewParams,
    *,
    size_px: tuple[int, int],
    interpolation: Interpolation,
    renderer_version: RendererVersion = NEWEST_RENDERER,
    partner_HW3: Pixels | None = None,
) -> Pixels:
    """The view at `size_px` (height, width): uint8 RGB [h, w, 3], contiguous and writable; the image is left alone.

    `image_HW3` is upright uint8 RGB, and so is `partner_HW3`, the image of the partner of a mixed view. Every size sees
    exactly the same box; a box that is the whole image at its own size gives the very pixels back.
    `renderer_version` is the policy's: version 2 resizes and jitters in 0.6 of the time of version 1 and differs by
    rounding.
    """

    def unmixed(of_HW3: Pixels, its_params: ViewParams) -> Pixels:
        crop, *operations = its_params
        assert isinstance(crop, Crop), crop
        kernel = next((each.interpolation for each in operations if isinstance(each, ResamplingParams)), interpolation)
        view_HW3 = _resized(of_HW3, crop, size_px=size_px, interpolation=kernel, renderer_version=renderer_version)
        for operation in operations:
            view_HW3 = _apply(view_HW3, operation, renderer_version=renderer_version)
        return view_HW3

    mix = mix_of(params)
    if mix is None:
        return unmixed(image_HW3, params)
    assert partner_HW3 is not None, "a mixed view needs the image of its partner"
    if mix.box is None and mix.weight in (0.0, 1.0):  # three in ten of Mixup with an alpha of 0.2
        return unmixed(image_HW3, params[:-1]) if mix.weight else unmixed(partner_HW3, mix.partner_params)
    view_HW3, other_HW3 = unmixed(image_HW3, params[:-1]), unmixed(partner_HW3, mix.partner_params)
    return mix_pixels(view_HW3, other_HW3, weight=mix.weight, box=mix.box)


def _resized(
    image_HW3: Pixels,
    crop: Crop,
    *,
    size_px: tuple[int, int],
    interpolation: Interpolation,
    renderer_version: RendererVersion,
) -> Pixels:
    assert image_HW3.dtype == np.uint8, image_HW3.dtype
    assert image_HW3.ndim == 3, image_HW3.shape
    assert image_HW3.shape[2] == 3, image_HW3.shape
    box = box_px(crop, image_size_px=(image_HW3.shape[0], image_HW3.shape[1]), size_px=size_px)

    def resampled(of_HW3: Pixels, its_box: BoxPx, its_size_px: tuple[int, int]) -> Pixels:
        return _resampled(
            of_HW3, its_box, size_px=its_size_px, interpolation=interpolation, renderer_version=renderer_version
        )

    if isinstance(crop, PaddedCropParams | ResizePadParams):
        return resample_padded(image_HW3, box, size_px=size_px, fill=crop.fill, resampler=resampled)
    return resampled(image_HW3, box, size_px)


def _resampled(
    image_HW3: Pixels,
    box: BoxPx,
    *,
    size_px: tuple[int, int],
    interpolation: Interpolation,
    renderer_version: RendererVersion,
) -> Pixels:
    """The box reaches beyond the image by less than a pixel of the view, if at all."""
    if renderer_version == 2 and interpolation != "nearest" and can_resample(box, size_px=size_px):
        return resample(image_HW3, size_px=size_px, box=box, kernel=interpolation)
    image_HW3, box = with_border(image_HW3, box)
    resized = Image.fromarray(image_HW3).resize(size_px[::-1], _resampling(interpolation), box=box)
    return np.array(resized)


def box_px(crop: Crop, *, image_size_px: tuple[int, int], size_px: tuple[int, int]) -> BoxPx:
    """(left, top, right, bottom) in pixels of the image, not rounded; sizes are (height, width).

    Only a crop with a fill reaches beyond the image.
    """
    image_height, image_width = image_size_px
    match crop:
        case PaddedCropParams():
            left, top = crop.left * image_width, crop.top * image_height
            right, bottom = left + crop.width * image_width, top + crop.height * image_height
            return snapped((left, top, right, bottom), image_size_px)
        case ResizePadParams():
            width, height = _smallest_box(image_size_px, size_px)
            left, top = (image_width - width) / 2, (image_height - height) / 2
            return left, top, left + width, top + height
        case CropParams():
            left, top = crop.left * image_width, crop.top * image_height
            width, height = crop.width * image_width, crop.height * image_height
        case CenterCropParams():
            width, height = _largest_box(image_size_px, size_px)
            width, height = width * crop.crop_fraction, height * crop.crop_fraction
            left, top = (image_width - width) / 2, (image_height - height) / 2
    # rounding may carry the far edges beyond the image by one bit, which Pillow refuses
    return left, top, min(left + width, float(image_width)), min(top + height, float(image_height))


def _largest_box(image_size_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[float, float]:
    """(width, height) of the largest box in the image with the aspect ratio of `size_px`."""
    image_height, image_width = image_size_px
    height, width = size_px
    if image_width * height >= image_height * width:
        return image_height * width / height, float(image_height)
    return float(image_width), image_width * height / width


def _smallest_box(image_size_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[float, float]:
    """(width, height) of the smallest box around the image with the aspect ratio of `size_px`."""
    image_height, image_width = image_size_px
    height, width = size_px
    if image_width * height >= image_height * width:
        return float(image_width), image_width * height / width
    return image_height * width / height, float(image_height)


def _resampling(interpolation: Interpolation) -> Image.Resampling:
    match interpolation:
        case "nearest":
            return Image.Resampling.NEAREST
        case "bilinear":
            return Image.Resampling.BILINEAR
        case "bicubic":
            return Image.Resampling.BICUBIC


def _apply(view_HW3: Pixels, operation: OperationParams, *, renderer_version: RendererVersion) -> Pixels:
    match operation:
        case FlipParams(flipped=True):
            return as_pixels(cv2.flip(view_HW3, 1))  # 4 µs; a NumPy copy of [:, ::-1] takes 140
        case JitterParams(applied=True):
            return jitter(view_HW3, operation, renderer_version=renderer_version)
        case StepsParams():
            for step in operation.steps:
                view_HW3 = apply_step(view_HW3, step, renderer_version=renderer_version)
            return view_HW3
        case FlipParams() | JitterParams() | ResamplingParams():
            return view_HW3
        case CropParams() | CenterCropParams() | PaddedCropParams() | ResizePadParams() | MixParams():
            raise AssertionError("a crop can only come first, and a mix only last")
