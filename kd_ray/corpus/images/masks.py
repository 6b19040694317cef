"""Segmentation masks: class indices as they are stored, which must already match the upright image.

| input | meaning |
|---|---|
| grayscale of 1, 2, 4, 8, 12 or 16 bits | the values are class indices |
| palette | the indices; colours and transparency mean nothing |
| EXIF orientation | not applied: label tools draw on the upright image (TIFF, whose reader turns by itself, excepted) |
| several frames | the first |
| colours, alpha channel, floats, 32-bit integers | refused: no single class index |
| JPEG, TIFF in negative, PBM, PGM scaled by another maximum than 255 or 65,535 | refused: the indices are changed |
"""

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from kd_ray.corpus.images.damage import BITS_PER_SAMPLE
from kd_ray.corpus.images.decode import DECODER_ERRORS, PHOTOMETRIC_TAG, WHITE_IS_ZERO, BadImage, open_image, refusal

INDEX_MODES = frozenset({"1", "L", "P", "I;16", "I;16L", "I;16B"})
PNG_BITS_AT = 24


def decode_mask(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Class indices [H, W]: uint8, or uint16 where the mask has more than 8 bits.

    Raises:
        BadImage: bad_mask, whatever the cause; the message names it.
    """
    try:
        image = open_image(data)
        problem = _problem(image)
        bits = _gray_bits(image, data)
        image.load()
    except BadImage as error:
        raise BadImage("bad_mask", f"the mask is {error}") from error
    except DECODER_ERRORS as error:
        raise BadImage("bad_mask", f"the mask is {refusal(error, data)}") from error
    if problem:
        raise BadImage("bad_mask", f"{problem}. Save class indices as a grayscale or palette PNG.")
    values_HW = np.asarray(image)
    if values_HW.dtype.itemsize > 1:
        return values_HW.astype(np.uint16)
    indices_HW: NDArray[np.uint8] = values_HW.astype(np.uint8)
    # Pillow spreads gray values of 2 and 4 bits over 0 to 255
    return indices_HW // (255 // (2**bits - 1)) if image.mode == "L" else indices_HW


def check_mask(data: bytes) -> tuple[int, int]:
    """(height, width) of the mask.

    Raises:
        BadImage: as `decode_mask`.
    """
    height, width = decode_mask(data).shape
    return height, width


def _problem(image: ImageFile.ImageFile) -> str:
    if image.format in ("JPEG", "MPO"):
        return "JPEG changes class indices"
    if image.format == "PPM" and (image.mode == "1" or image.tile[0].codec_name != "raw"):
        return "a PBM, or a PGM scaled by its maximum, changes class indices"
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        return "a TIFF in negative (white is zero) does not tell which class is 0"
    if image.mode not in INDEX_MODES and (image.mode, image.format) != ("I", "PPM"):
        return f"pixels of mode {image.mode} are no class indices"
    return ""


def _gray_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Bits of a gray value as stored; Pillow's 8-bit mode holds fewer, too."""
    if image.format == "PNG":
        return data[PNG_BITS_AT]
    return int(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))[0])
