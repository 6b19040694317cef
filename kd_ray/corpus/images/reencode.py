"""Smaller images and masks to store: deterministic, upright, without metadata."""

import io
from typing import Any

import numpy as np
from PIL import Image

from kd_ray.config.corpus import Reencode
from kd_ray.corpus.images.check import check
from kd_ray.corpus.images.decode import MAX_PIXELS, BadImage, decode
from kd_ray.corpus.images.masks import decode_mask

# What the encoders take, by format: libjpeg (as built for Pillow) and libwebp by their own words, PNG all that is read.
MAX_SIDE_PX = {"jpeg": 65_500, "webp": 16_383, "png": MAX_PIXELS}


def size_within(height: int, width: int, settings: Reencode) -> tuple[int, int]:
    """(height, width) after the limit of `settings`, at least 1 each; the same where it is within the limit."""
    limit = settings.longest_side_px or settings.shortest_side_px
    assert limit is not None  # the settings hold one of the two
    side = max(height, width) if settings.longest_side_px else min(height, width)
    if side <= limit:
        return height, width
    return max(1, round(height * limit / side)), max(1, round(width * limit / side))


def can_be_stored(size_px: tuple[int, int], settings: Reencode) -> bool:
    """Whether an image of (height, width) keeps its bytes, or its scaled sides are such as the format can have."""
    wanted = size_within(*size_px, settings)
    return wanted == size_px or max(wanted) <= MAX_SIDE_PX[settings.format]


def reencode(data: bytes, settings: Reencode) -> bytes:
    """`data` unchanged where the image is within the limit; otherwise the scaled image, upright RGB, encoded anew.

    Scaled in one Lanczos step. JPEG keeps full colour resolution (4:4:4); WebP is lossy at the same quality.

    Raises:
        BadImage: as `decode`, and too_large where not `can_be_stored`.
    """
    height, width = check(data)
    wanted = size_within(height, width, settings)
    if wanted == (height, width):
        return data
    if not can_be_stored((height, width), settings):
        raise BadImage(
            "too_large",
            f"{wanted[0]}x{wanted[1]} pixels after re-encoding, {settings.format} has at most "
            f"{MAX_SIDE_PX[settings.format]:,} a side. Set corpus.reencode.format png, or a lower limit.",
        )
    image = Image.fromarray(decode(data)).resize(wanted[::-1], Image.Resampling.LANCZOS, reducing_gap=None)
    match settings.format:
        case "jpeg":
            return _encoded(image, "JPEG", quality=settings.quality, subsampling=0, optimize=False)
        case "webp":
            return _encoded(image, "WEBP", quality=settings.quality, method=4)
        case "png":
            return _encoded(image, "PNG", compress_level=6)


def reencode_mask(data: bytes, size_px: tuple[int, int]) -> bytes:
    """The mask at (height, width) `size_px` by nearest neighbour, a gray PNG of 8 or 16 bits; unchanged at that size.

    Gray even where `data` has a palette: Pillow stores only the bits that a palette needs, and cuts indices beyond it.

    Raises:
        BadImage: as `decode_mask`.
    """
    mask_HW = decode_mask(data)
    if mask_HW.shape == size_px:
        return data
    rows, columns = (_nearest(old, new) for old, new in zip(mask_HW.shape, size_px, strict=True))
    return _encoded(Image.fromarray(mask_HW[rows][:, columns]), "PNG", compress_level=6)


def _nearest(old: int, new: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each of `new` positions the one of `old` under its centre."""
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


def _encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()
