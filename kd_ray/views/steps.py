"""The steps of a view, one function each, in operations that give the same pixels on every CPU.

They act on the view at its own size. H, W: height and width in pixels; 3: red, green, blue.
"""

import math
import statistics
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_ray.config.colors import IMAGENET_MEAN
from kd_ray.config.operations import Interpolation
from kd_ray.config.views import NEWEST_RENDERER, RendererVersion
from kd_ray.views.color import (
    Pixels,
    as_pixels,
    brightness,
    contrast,
    gray,
    hsv_saturation,
    hue,
    look_up,
    saturation,
)
from kd_ray.views.params import Step
from kd_ray.views.warp import (
    Matrix,
    Projection,
    affine,
    quadrilateral_to_square,
    rotation,
    warp_affine,
    warp_perspective,
)

LEVELS = 256
BLOCK_LEVELS = 1 << 14  # whose float32 stay below the 128 KiB that malloc takes from the system by themselves
SOLARIZE_ADD_BELOW = 128  # timm's solarize_add adds to levels below this
WEIGHT_STEPS = 256  # of a blur's weights
BLUR_REACH = 3.5  # in standard deviations: beyond, no weight rounds to 1/256 once sigma is 0.6 px
NOISE_MEAN = (123.675, 116.28, 103.53)  # ImageNet's, in levels
NOISE_STD = (58.395, 57.12, 57.375)


def apply_step(view_HW3: Pixels, step: Step, *, renderer_version: RendererVersion = NEWEST_RENDERER) -> Pixels:
    """The view after one step; the given one is left alone, or returned where nothing is to be done."""
    values = step.values
    match step.name:
        case "flip_vertical":
            return as_pixels(cv2.flip(view_HW3, 0))
        case "gray":
            gray_HW = gray(view_HW3)
            return as_pixels(cv2.merge([gray_HW, gray_HW, gray_HW]))
        case "gaussian_blur":
            return gaussian_blur(view_HW3, values[0] * min(view_HW3.shape[:2]))
        case "brightness" | "contrast" | "saturation" | "sharpness":
            return _away(view_HW3, step, renderer_version=renderer_version)
        case "solarize" | "solarize_add" | "posterize" | "add":
            return _each_level(view_HW3, step)
        case "multiply" | "hsv_saturation" | "hue":
            return _distorted(view_HW3, step, renderer_version=renderer_version)
        case "equalize":
            return equalize(view_HW3)
        case "autocontrast":
            return autocontrast(view_HW3)
        case "invert":
            return as_pixels(cv2.bitwise_not(view_HW3))
        case "erase":
            return erase(view_HW3, step)
        case "perspective":
            corners, fill = values[:8], values[8:]
            return warp_perspective(view_HW3, corners, interpolation=_interpolation(step), fill=fill)
        case "affine" | "rotate" | "shear_x" | "shear_y" | "translate_x" | "translate_y":
            matrix = _matrix(step, width=view_HW3.shape[1], height=view_HW3.shape[0])
            return warp_affine(view_HW3, matrix, interpolation=_interpolation(step), fill=values[-3:])


def source_of(step: Step, *, size_px: tuple[int, int]) -> Projection | None:
    """Where a step takes its pixels from: from places in its result to places before it, both in shares of the view.

    `size_px` is (height, width) of the view. None where nothing moves.
    """
    height, width = size_px
    match step.name:
        case "flip_vertical":
            return ((1.0, 0.0, 0.0), (0.0, -1.0, 1.0), (0.0, 0.0, 1.0))
        case "perspective":
            return quadrilateral_to_square(step.values[:8])
        case "affine" | "rotate" | "shear_x" | "shear_y" | "translate_x" | "translate_y":
            a, b, c, d, e, f = _matrix(step, width=width, height=height)
            return ((a, b * height / width, c / width), (d * width / height, e, f / height), (0.0, 0.0, 1.0))
        case _:
            return None


def _each_level(view_HW3: Pixels, step: Step) -> Pixels:
    """Each level by itself; what comes out below 0 or above 255 counts as that, and fractions are cut."""
    value = step.values[0]
    match step.name:
        case "solarize":  # whole levels of at least the threshold: those above the whole number before it
            _, inverted_HW3 = cv2.threshold(view_HW3, math.ceil(value) - 1, LEVELS - 1, cv2.THRESH_BINARY)
            return as_pixels(cv2.bitwise_xor(view_HW3, inverted_HW3))
        case "posterize":
            return view_HW3 & np.uint8(LEVELS - (1 << (8 - int(value))))
        case "solarize_add":
            return look_up(view_HW3, np.where(_levels() < SOLARIZE_ADD_BELOW, _levels() + value, _levels()))
        case _:
            return look_up(view_HW3, _levels() + value)


def _levels() -> NDArray[np.int64]:
    return np.arange(LEVELS)


def _interpolation(step: Step) -> Interpolation:
    return cast(Interpolation, step.option)


def _matrix(step: Step, *, width: int, height: int) -> Matrix:
    """Of affine: degrees clockwise, two shifts, scale, two shears in degrees; else of its only value.

    Shears (the tangent) are around the upper left corner, as timm's and torchvision's RandAugment have it.
    """
    value = step.values[0]
    match step.name:
        case "affine":
            degrees, shift_x, shift_y, scale, shear_x, shear_y = step.values[:6]
            return affine(
                width, height, degrees=degrees, shift=(shift_x, shift_y), scale=scale, shear=(shear_x, shear_y)
            )
        case "rotate":
            return rotation(width, height, value)
        case "shear_x":
            return 1.0, value, 0.0, 0.0, 1.0, 0.0
        case "shear_y":
            return 1.0, 0.0, 0.0, value, 1.0, 0.0
        case "translate_x":
            return 1.0, 0.0, -value * width, 0.0, 1.0, 0.0
        case "translate_y":
            return 1.0, 0.0, 0.0, 0.0, 1.0, -value * height
        case _:
            raise AssertionError(f"{step.name} is no affine map")


def _away(view_HW3: Pixels, step: Step, *, renderer_version: RendererVersion) -> Pixels:
    """Away from black, from the mean gray, from gray or from the smoothed view, by a factor of which 1 is neutral."""
    factor = step.values[0]
    if factor == 1.0:
        return view_HW3
    match step.name:
        case "brightness":
            return brightness(view_HW3, factor, renderer_version=renderer_version)
        case "contrast":
            return contrast(view_HW3, factor, renderer_version=renderer_version)
        case "saturation":
            return saturation(view_HW3, factor, renderer_version=renderer_version)
        case _:
            return sharpness(view_HW3, factor)


def _distorted(view_HW3: Pixels, step: Step, *, renderer_version: RendererVersion) -> Pixels:
    """Levels or HSV saturation times a factor, or hue turned by a share of a turn."""
    value = step.values[0]
    match step.name:
        case "multiply":
            return brightness(view_HW3, value, renderer_version=renderer_version)
        case "hsv_saturation":
            return hsv_saturation(view_HW3, value) if value != 1.0 else view_HW3
        case _:
            return hue(view_HW3, value) if value != 0.0 else view_HW3


def gaussian_blur(view_HW3: Pixels, sigma_px: float) -> Pixels:
    """Gaussian blur with weights of whole 1/256 and the border reflected, as torchvision's.

    In float32, but all sums are whole multiples of 2**-16 below 2**8, which it holds exactly: neither order nor fused
    operations matter. OpenCV's own path in whole numbers rounds ties one way in the middle of a row and another at its
    end. Adding 0.5 and cutting rounds.
    """
    weights = blur_weights(sigma_px)
    if len(weights) == 1:
        return view_HW3
    kernel = np.array(weights, dtype=np.float32) / np.float32(WEIGHT_STEPS)
    blurred_HW3 = cv2.sepFilter2D(view_HW3, cv2.CV_32F, kernel, kernel, delta=0.5, borderType=cv2.BORDER_REFLECT_101)
    return blurred_HW3.astype(np.uint8)


def blur_weights(sigma_px: float) -> tuple[int, ...]:
    """An odd number of symmetric weights that sum to 256, without zeros at the ends; (256,) is no blur.

    exp in decimal, which is the same everywhere; the middle takes what rounding leaves.
    """
    context = Context(prec=20)
    reach = int(BLUR_REACH * sigma_px) + 1
    scale = Decimal(2) * context.multiply(Decimal(sigma_px), Decimal(sigma_px))
    if scale < Decimal("1e-9"):
        return (WEIGHT_STEPS,)
    exponents = (context.divide(Decimal(-at * at), scale) for at in range(reach + 1))
    shares = [context.exp(max(each, Decimal(-200))) for each in exponents]
    total = shares[0] + 2 * sum(shares[1:])
    side = [int(context.divide(WEIGHT_STEPS * share, total) + Decimal("0.5")) for share in shares[1:]]
    while side and side[-1] == 0:
        side.pop()
    return (*reversed(side), WEIGHT_STEPS - 2 * sum(side), *side)


def sharpness(view_HW3: Pixels, factor: float) -> Pixels:
    """v * factor + smooth * (1 - factor), smooth being a mean of 3x3 with five times the weight in the middle.

    The outermost pixels stay as they are, as in Pillow and torchvision; smooth is rounded, the result cut.
    """
    height, width = view_HW3.shape[:2]
    if height <= 2 or width <= 2:
        return view_HW3
    sums_HW3 = cv2.boxFilter(view_HW3, cv2.CV_16U, (3, 3), normalize=False)
    sharp_HW3 = view_HW3.copy()
    num_rows = max(1, BLOCK_LEVELS // (3 * width))
    for rows in (slice(start, start + num_rows) for start in range(0, height, num_rows)):
        sums = np.left_shift(view_HW3[rows], 2, dtype=np.uint16)
        sums += sums_HW3[rows]
        smooth = cv2.convertScaleAbs(sums, alpha=1 / 13)  # no sum of whole numbers lies near half of 13
        levels = np.multiply(smooth, np.float32(1 - factor), dtype=np.float32)
        levels += np.multiply(view_HW3[rows], np.float32(factor), dtype=np.float32)
        sharp_HW3[rows] = np.clip(levels, 0, 255, out=levels)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        sharp_HW3[edge] = view_HW3[edge]
    return sharp_HW3


def equalize(view_HW3: Pixels) -> Pixels:
    """Each channel by Pillow's table: darker pixels counted in steps of (all - brightest) // 255."""
    channels, tables = cv2.split(view_HW3), []
    for channel_HW in channels:
        # float32 holds counts exactly up to 2**24 pixels; np.bincount takes 0.09 ms a channel, this 0.02
        counts = cv2.calcHist([channel_HW], [0], None, [LEVELS], [0, LEVELS]).ravel().astype(np.int64)
        filled = counts[counts > 0]
        size = int(filled.sum() - filled[-1]) // 255
        darker = np.cumsum(counts) - counts
        tables.append(_levels() if size == 0 else np.minimum((size // 2 + darker) // size, 255))
    return _look_up_each(channels, tables)


def autocontrast(view_HW3: Pixels) -> Pixels:
    """Each channel stretched to 0 … 255 as Pillow does it, in float64 and cut."""
    channels, tables = cv2.split(view_HW3), []
    for channel_HW in channels:
        low, high = int(channel_HW.min()), int(channel_HW.max())
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables.append(np.clip(_levels() * scale + offset, 0.0, 255.0).astype(np.int64))
    return _look_up_each(channels, tables)


def _look_up_each(channels: Sequence[NDArray[Any]], tables: Sequence[NDArray[np.int64]]) -> Pixels:
    changed = [
        cv2.LUT(channel_HW, table.astype(np.uint8))  # all in one call take twice the time
        for channel_HW, table in zip(channels, tables, strict=True)
    ]
    return as_pixels(cv2.merge(changed))


def erase(view_HW3: Pixels, step: Step) -> Pixels:
    """A box replaced: left, top, width and height in shares of the sides, then the seed of its noise."""
    height, width = view_HW3.shape[:2]
    box_left, box_top, box_width, box_height, seed = step.values
    left, right = round(box_left * width), round((box_left + box_width) * width)
    top, bottom = round(box_top * height), round((box_top + box_height) * height)
    erased_HW3 = view_HW3.copy()
    box_HW3 = erased_HW3[top:bottom, left:right]
    match step.option:
        case "mean":
            box_HW3[...] = IMAGENET_MEAN
        case "noise":
            box_HW3[...] = noise(bottom - top, right - left, seed=int(seed))
        case _:
            box_HW3[...] = 0
    return erased_HW3


def noise(height: int, width: int, *, seed: int) -> Pixels:
    """Normal noise of ImageNet's mean and spread, [height, width, 3], from one byte of Philox for each level."""
    num_bytes = height * width * 3
    if not num_bytes:
        return np.zeros((height, width, 3), dtype=np.uint8)
    words = np.random.Philox(key=seed).random_raw(-(-num_bytes // 8)).astype("<u8")
    bytes_HW3 = words.view(np.uint8)[:num_bytes].reshape(height, width, 3)
    normals = noise_quantiles()
    tables = [
        np.clip(np.floor(np.array(normals) * std + mean + 0.5), 0, 255).astype(np.int64)
        for mean, std in zip(NOISE_MEAN, NOISE_STD, strict=True)
    ]
    return _look_up_each(cv2.split(bytes_HW3), tables)


def noise_quantiles() -> tuple[float, ...]:
    """The middles of 256 equally likely parts of N(0, 1); the logarithm inside may differ in its last bit.

    No level lies near enough to a rounding edge for that to matter.
    """
    normal = statistics.NormalDist()
    return tuple(normal.inv_cdf((index + 0.5) / LEVELS) for index in range(LEVELS))
