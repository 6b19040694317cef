"""From encoded bytes to upright RGB pixels, with one meaning for every kind of image, however hostile the bytes.

| input | meaning |
|---|---|
| EXIF (or XMP) orientation | applied; an EXIF block that cannot be parsed counts as upright |
| grayscale, bilevel, palette | the colours that a viewer shows |
| alpha channel, transparent palette entry or colour | composited over white |
| 16 bits a channel | the upper eight bits |
| CMYK | Pillow's plain conversion; colour profiles are ignored for every mode |
| several frames (GIF, MPO, TIFF, WebP) | the first |
| 32-bit integers, floats | refused: they have no 8-bit meaning |
"""

import io
import struct
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd_ray.errors import CorpusError

Reason = Literal["empty", "unreadable", "truncated", "too_large"]

# Pillow also reads formats that start other programs (EPS runs Ghostscript); these are pure decoders. JPEG covers MPO.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Pillow's own threshold (a quarter GiB as RGB), so that whatever Pillow only warns about is refused here.
MAX_PIXELS = 89_478_485

# What Pillow's decoders let through on damaged input, besides OSError: found by flipping and cutting bytes.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    UserWarning,  # only where warnings are turned into errors
)

UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({5, 6, 7, 8})
ORIENTATION_TAG = 0x0112


class BadImage(CorpusError):
    """Bytes that are not one image of acceptable size; `reason` is one word for tables and counts."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)  # both in args, so that the exception pickles as it is
        self.reason: Reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: {self.args[1]}"


def decode(data: bytes) -> NDArray[np.uint8]:
    """The image as uint8 [H, W, 3] RGB, upright; see the table of this module.

    Raises:
        BadImage: empty, unreadable, truncated or too_large.
    """
    image = _open(data)
    orientation = _orientation(image, data)
    try:
        image.load()
    except DECODER_ERRORS as error:
        raise _bad(error, data) from error
    rgb = _to_rgb(image)
    # Pillow turns TIFF upright by itself while loading.
    if orientation in UPRIGHT and image.format != "TIFF":
        rgb = rgb.transpose(UPRIGHT[orientation])
    return np.array(rgb)


def image_size_px(data: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone: no pixel is decoded.

    Raises:
        BadImage: empty, unreadable or too_large; a body that is cut off is not noticed.
    """
    image = _open(data)
    width, height = image.size
    # The TIFF reader reports the upright size already.
    sideways = image.format != "TIFF" and _orientation(image, data) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("empty", "no bytes.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_large", f"{error} Scale the image down.") from error
    except DECODER_ERRORS as error:
        raise _bad(error, data) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage("too_large", f"{height}x{width} pixels, at most {MAX_PIXELS:,} are read. Scale the image down.")
    return image


def _bad(error: Exception, data: bytes) -> BadImage:
    cut_off = isinstance(error, EOFError) or "truncated" in str(error).lower()
    detail = " ".join(str(error).split()) or type(error).__name__
    return BadImage("truncated" if cut_off else "unreadable", f"{len(data):,} bytes starting {data[:8]!r}: {detail}")


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the block cannot be parsed."""
    try:
        if image.format == "PNG" and b"eXIf" not in data:
            # PngImageFile.getexif decodes all pixels in search of a late eXIf chunk; here there is none.
            return int(Image.Image.getexif(image).get(ORIENTATION_TAG, 1))
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except DECODER_ERRORS:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _upper_eight_bits(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage("unreadable", f"32 bits a channel (mode {image.mode}) have no 8-bit meaning. Convert the image.")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    values_HW = np.asarray(image)
    eight_HW = (values_HW >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight_HW[values_HW == transparent] = 255
    return Image.fromarray(eight_HW)
