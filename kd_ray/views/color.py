"""torchvision's ColorJitter on uint8, from operations on which all code paths of OpenCV agree bit by bit.

Its conversion from HSV to RGB is not among them: SSE2, AVX2 and IPP give different pixels, and so do the middle and the
end of one row. A teacher and a student on two kinds of CPU would disagree about the digest, so that step is done here.
Renderer version 2 rounds factors to 1/4096: every product and sum is then exact in float32, and no code path, fused or
not, can give another one. Version 1 has factors as they are, and takes twice the time.
H, W: height and width in pixels; 3: red, green, blue.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_ray.config.views import NEWEST_RENDERER, RendererVersion
from kd_ray.views.params import JitterParams

Pixels = NDArray[np.uint8]

FACTOR_STEPS = 4096
MAX_FACTOR = 3.0  # 255 * (3 + 2) in steps of 1/8192 is below 2**24, so that float32 holds it; above, as version 1


def jitter(view_HW3: Pixels, params: JitterParams, *, renderer_version: RendererVersion = NEWEST_RENDERER) -> Pixels:
    """The four operations in their order, each clamped to uint8; one with a neutral value does nothing."""
    for index in params.order:
        match index:
            case 0 if params.brightness != 1.0:
                view_HW3 = brightness(view_HW3, params.brightness, renderer_version=renderer_version)
            case 1 if params.contrast != 1.0:
                view_HW3 = contrast(view_HW3, params.contrast, renderer_version=renderer_version)
            case 2 if params.saturation != 1.0:
                view_HW3 = saturation(view_HW3, params.saturation, renderer_version=renderer_version)
            case 3 if params.hue != 0.0:
                view_HW3 = hue(view_HW3, params.hue)
            case _:
                assert 0 <= index < 4, index
    return view_HW3


def brightness(view_HW3: Pixels, factor: float, *, renderer_version: RendererVersion) -> Pixels:
    """v * factor, as torchvision: in float32, clamped, cut to whole numbers."""
    if _is_exact(factor, renderer_version):
        return _weighted(view_HW3, view_HW3, factor=_rounded(factor), rest=0.0, offset=0.0)
    return look_up(view_HW3, np.arange(256, dtype=np.float32) * np.float32(factor))


def contrast(view_HW3: Pixels, factor: float, *, renderer_version: RendererVersion) -> Pixels:
    """Away from the mean of the grayscale view: v * factor + mean * (1 - factor)."""
    gray_HW = gray(view_HW3)
    mean = cv2.sumElems(gray_HW)[0] / gray_HW.size  # a sum of whole numbers: exact
    if _is_exact(factor, renderer_version):
        factor = _rounded(factor)
        offset = round(mean * (1.0 - factor) * FACTOR_STEPS) / FACTOR_STEPS
        return _weighted(view_HW3, view_HW3, factor=factor, rest=0.0, offset=offset)
    return look_up(view_HW3, np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(mean * (1 - factor)))


def saturation(view_HW3: Pixels, factor: float, *, renderer_version: RendererVersion) -> Pixels:
    """Away from gray: v * factor + gray * (1 - factor).

    In float32, clamped and cut as torchvision does.
    """
    gray_HW = gray(view_HW3)
    if _is_exact(factor, renderer_version):
        gray_HW3, factor = as_pixels(cv2.cvtColor(gray_HW, cv2.COLOR_GRAY2RGB)), _rounded(factor)
        return _weighted(view_HW3, gray_HW3, factor=factor, rest=1.0 - factor, offset=0.0)
    weighted_HW = gray_HW.astype(np.float32) * np.float32(1 - factor)
    blended_HW3 = np.multiply(view_HW3, np.float32(factor), dtype=np.float32)
    blended_HW3 += cv2.merge([weighted_HW, weighted_HW, weighted_HW])
    return np.clip(blended_HW3, 0, 255, out=blended_HW3).astype(np.uint8)


def _weighted(view_HW3: Pixels, other_HW3: Pixels, *, factor: float, rest: float, offset: float) -> Pixels:
    """v * factor + other * rest + offset, clamped and cut; all three numbers are multiples of 1/4096.

    OpenCV rounds; with 1/2 - 1/8192 taken off that is cutting, and no sum lies half-way between two levels.
    """
    cut = 0.5 / FACTOR_STEPS - 0.5
    return as_pixels(cv2.addWeighted(view_HW3, factor, other_HW3, rest, offset + cut))


def _is_exact(factor: float, renderer_version: RendererVersion) -> bool:
    return renderer_version == 2 and 0.0 <= factor <= MAX_FACTOR


def _rounded(factor: float) -> float:
    return round(factor * FACTOR_STEPS) / FACTOR_STEPS


def hsv_saturation(view_HW3: Pixels, factor: float) -> Pixels:
    """Saturation times `factor`, at most full; hue and value (the largest of a pixel's levels) are kept.

    In HSV every level lies a multiple of the saturation below the largest. In float32, each operation by itself.
    """
    channels = [channel_HW.astype(np.float32) for channel_HW in cv2.split(view_HW3)]
    max_HW = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    chroma_HW = max_HW - np.minimum(np.minimum(channels[0], channels[1]), channels[2])
    factor_HW = max_HW / np.maximum(chroma_HW, np.float32(1))  # makes the smallest level 0
    np.minimum(factor_HW, np.float32(factor), out=factor_HW)
    return as_pixels(cv2.merge([_below(max_HW, channel_HW, factor_HW) for channel_HW in channels]))


def _below(max_HW: NDArray[np.float32], channel_HW: NDArray[np.float32], factor_HW: NDArray[np.float32]) -> Pixels:
    """max - (max - channel) * factor, rounded."""
    fall_HW = max_HW - channel_HW
    fall_HW *= factor_HW
    np.subtract(max_HW, fall_HW, out=fall_HW)
    np.rint(fall_HW, out=fall_HW)
    return fall_HW.astype(np.uint8)


def hue(view_HW3: Pixels, shift_turns: float) -> Pixels:
    """The hue turned by `shift_turns`, measured in 1/256 turn; value and chroma are kept exactly.

    max - chroma * k(hue), with k the trapezium of the HSV colour wheel in 1/256, all in whole numbers.
    """
    hsv_HW3 = cv2.cvtColor(view_HW3, cv2.COLOR_RGB2HSV_FULL)
    hue_HW, max_HW = cv2.extractChannel(hsv_HW3, 0), cv2.extractChannel(hsv_HW3, 2)  # its value is the largest level
    red_HW, green_HW, blue_HW = cv2.split(view_HW3)
    chroma_HW = cv2.subtract(max_HW, cv2.min(cv2.min(red_HW, green_HW), blue_HW)).astype(np.uint16)
    channels = []
    for fall_256 in _wheels(shift_turns):
        fall_HW: NDArray[np.uint16] = cv2.LUT(hue_HW, fall_256)  # type: ignore[assignment]
        fall_HW *= chroma_HW  # at most 256 * 255, which uint16 holds
        fall_HW += 128
        fall_HW >>= 8
        channels.append(cv2.subtract(max_HW, fall_HW.astype(np.uint8)))
    return as_pixels(cv2.merge(channels))


def _wheels(shift_turns: float) -> NDArray[np.uint16]:
    """How far below the maximum red, green and blue lie for each of the 256 hues, in 1/256 of the chroma: [3, 256]."""
    offset_31 = np.array([[5.0], [3.0], [1.0]])  # in sixths of a turn
    sixths = (offset_31 + 6.0 * (np.arange(256) / 256 + shift_turns)) % 6.0
    return np.rint(256.0 * np.clip(np.minimum(sixths, 4.0 - sixths), 0.0, 1.0)).astype(np.uint16)


def gray(view_HW3: Pixels) -> Pixels:
    """ITU-R 601 luma, rounded, in whole numbers (torchvision cuts instead: half a level darker)."""
    return as_pixels(cv2.cvtColor(view_HW3, cv2.COLOR_RGB2GRAY))


def look_up(view_HW3: Pixels, table: NDArray[Any]) -> Pixels:
    return as_pixels(cv2.LUT(view_HW3, np.clip(table, 0, 255).astype(np.uint8)))


def as_pixels(pixels: NDArray[Any]) -> Pixels:
    """What OpenCV returned, with the type that its annotations leave open."""
    assert pixels.dtype == np.uint8, pixels.dtype
    return pixels
