"""From encoded bytes to upright RGB pixels, with one meaning for every kind of image, however hostile the bytes.

| input | meaning |
|---|---|
| EXIF (or XMP) orientation | applied; an EXIF block that cannot be parsed counts as upright |
| grayscale, bilevel, palette | the colours that a viewer shows |
| alpha channel, transparent palette entry or colour | composited over white |
| 12 and 16 bits a channel | the upper eight bits |
| CMYK | Pillow's plain conversion; colour profiles are ignored for every mode |
| several frames (GIF, MPO, TIFF, WebP) | the first |
| 32-bit integers, floats, L*a*b* | refused: they have no 8-bit RGB meaning |
"""

import io
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from kd_ray.corpus.images.damage import BITS_PER_SAMPLE, ends_in_zeros, format_of, is_cut_off, is_too_deep
from kd_ray.corpus.images.jpeg import is_one_scan, is_plain
from kd_ray.corpus.source import Reason
from kd_ray.errors import CorpusError

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

CUT_OFF_SIGNS = ("truncated", "eof", "not enough")  # in Pillow's messages
NO_MEANING = "32-bit integers, floats and L*a*b* have no 8-bit RGB meaning. Convert the image."

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
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 0x0106, 0


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
        BadImage: empty, not_an_image, unreadable, truncated, too_large or unsupported.
    """
    if is_plain(data, max_pixels=MAX_PIXELS) and is_one_scan(data):
        pixels_HW3 = _decoded_by_opencv(data)  # without Pillow's reading of the header: 0.03 ms less
        if pixels_HW3 is not None:
            return pixels_HW3
    image = open_image(data)
    if ends_in_zeros(data):
        raise BadImage("truncated", f"{len(data):,} bytes of a JPEG that ends in zeros.")
    orientation = orientation_of(image, data)
    if orientation not in UPRIGHT and image.format == "JPEG" and image.mode in ("RGB", "L") and is_one_scan(data):
        pixels_HW3 = _decoded_by_opencv(data)
        if pixels_HW3 is not None:
            return pixels_HW3
    try:
        image.load()
        rgb = _to_rgb(image)
    except BadImage:
        raise
    except DECODER_ERRORS as error:
        raise refusal(error, data) from error
    # Pillow turns TIFF upright by itself while loading.
    if orientation in UPRIGHT and image.format != "TIFF":
        rgb = rgb.transpose(UPRIGHT[orientation])
    return np.array(rgb)


def image_size_px(data: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone: no pixel is decoded.

    Raises:
        BadImage: as `decode`, but a damaged body is not noticed.
    """
    image = open_image(data)
    width, height = image.size
    # The TIFF reader reports the upright size already.
    sideways = image.format != "TIFF" and orientation_of(image, data) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def open_image(data: bytes) -> ImageFile.ImageFile:
    """The image with its header read and no pixel yet.

    Raises:
        BadImage: as `decode`, but a damaged body is not noticed.
    """
    if not data:
        raise BadImage("empty", "no bytes.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_large", f"{error} Scale the image down.") from error
    except DECODER_ERRORS as error:
        raise refusal(error, data) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage("too_large", f"{height}x{width} pixels, at most {MAX_PIXELS:,} are read. Scale the image down.")
    return image


def refusal(error: Exception, data: bytes) -> BadImage:
    """What to raise where Pillow raised `error` over `data`."""
    start = f"{len(data):,} bytes starting {data[:8]!r}"
    if not format_of(data):
        return BadImage("not_an_image", f"{start}: none of {', '.join(FORMATS)}.")
    if isinstance(error, UnidentifiedImageError):
        if is_too_deep(data):
            return BadImage("unsupported", f"{start}: {NO_MEANING}")
        detail = "its header cannot be read"  # Pillow's own words hold an address in memory
    else:
        detail = " ".join(str(error).split()) or type(error).__name__
    words = detail.lower()
    if "too large" in words or "too much memory" in words:  # PNG text that inflates beyond Pillow's limit
        return BadImage("too_large", f"{start}: {detail}")
    cut_off = isinstance(error, EOFError) or any(sign in words for sign in CUT_OFF_SIGNS) or is_cut_off(data)
    return BadImage("truncated" if cut_off else "unreadable", f"{start}: {detail}")


def orientation_of(image: Image.Image, data: bytes) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the block cannot be parsed."""
    try:
        if image.format == "PNG" and b"eXIf" not in data:
            # PngImageFile.getexif decodes all pixels in search of a late eXIf chunk; here there is none.
            return int(Image.Image.getexif(image).get(ORIENTATION_TAG, 1))
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except DECODER_ERRORS:
        return 1


def _decoded_by_opencv(data: bytes) -> NDArray[np.uint8] | None:
    """Pillow's very pixels, from the same libjpeg-turbo, without its copies: 0.25 ms less at 480x360; or None."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _upper_eight_bits(image).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise BadImage("unsupported", f"pixels of mode {image.mode}: {NO_MEANING}")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # `convert` would copy every pixel: 0.04 ms at 480x360
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})  # of a TIFF: scanners and microscopes write 12 bits, and negatives
    values_HW = np.asarray(image)
    eight_HW = (values_HW >> (int(tags.get(BITS_PER_SAMPLE, (16,))[0]) - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        eight_HW = 255 - eight_HW
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight_HW[values_HW == transparent] = 255
    return Image.fromarray(eight_HW)
