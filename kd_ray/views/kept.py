"""Views whose pixels are kept: encoded once, and decoded to the same pixels for every teacher and student.

H, W: height and width in pixels; 3: red, green, blue.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from kd_ray.config.kept import KEPT_INTERPOLATION, KeptFormat
from kd_ray.config.views import NEWEST_RENDERER, Interpolation, RendererVersion
from kd_ray.errors import CacheCorrupt
from kd_ray.views.color import Pixels
from kd_ray.views.params import CropParams, ViewParams
from kd_ray.views.render import render
from kd_ray.views.view import View

LOSSLESS = 100  # of WebP
WHOLE = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)

# Bytes of an encoded level at most, measured on noise, which is what compresses worst; photographs take a sixth.
MAX_BYTES_PER_LEVEL = {"jpeg": 1.0, "jpeg above 95": 1.6, "webp": 1.1}
MAX_HEADER_BYTES = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptView:
    """Params with the view's own pixels [H, W, 3], decoded from what is stored."""

    params: ViewParams
    pixels_HW3: Pixels
    renderer_version: RendererVersion = NEWEST_RENDERER

    def render(self, size_px: tuple[int, int], interpolation: Interpolation) -> Pixels:
        """The view at `size_px` (height, width), resized from the kept pixels; at their own size these very pixels."""
        if self.pixels_HW3.shape[:2] == size_px:
            return self.pixels_HW3
        return render(
            self.pixels_HW3,
            (WHOLE,),
            size_px=size_px,
            interpolation=interpolation,
            renderer_version=self.renderer_version,
        )


AnyView = View | KeptView


def keep_view(view: View, kept: KeptFormat) -> tuple[bytes, KeptView]:
    """The bytes to store of a view, and the view as it is to everybody from then on."""
    data = encode_pixels(view.render(kept.size_px, KEPT_INTERPOLATION), kept)
    pixels_HW3 = decode_pixels(data, kept, what="a view that was just encoded")
    return data, KeptView(params=view.params, pixels_HW3=pixels_HW3, renderer_version=view.renderer_version)


def encode_pixels(pixels_HW3: Pixels, kept: KeptFormat) -> bytes:
    """What is stored of pixels at the kept size; the same bytes under one version of the libraries."""
    assert pixels_HW3.shape == (*kept.size_px, 3), (pixels_HW3.shape, kept)
    buffer = io.BytesIO()
    match kept.codec:
        case "raw":
            return pixels_HW3.tobytes()
        case "jpeg":
            options = {"quality": kept.quality, "subsampling": 0, "optimize": False}
            Image.fromarray(pixels_HW3).save(buffer, "JPEG", **options)
        case "webp" if kept.quality == LOSSLESS:
            # the fastest of its efforts: 1.6 ms at 224 px where the default takes 40, and 7 % more bytes
            Image.fromarray(pixels_HW3).save(buffer, "WEBP", lossless=True, quality=0, method=0)
        case "webp":
            # 2.1 ms at 224 px where method 4 takes 5.5, and 1 % more bytes
            Image.fromarray(pixels_HW3).save(buffer, "WEBP", quality=kept.quality, method=0)
    return buffer.getvalue()


def decode_pixels(data: bytes, kept: KeptFormat, *, what: str) -> Pixels:
    """The pixels [H, W, 3] of `what` (for messages), on any thread and CPU the same: libjpeg-turbo's accurate transform
    needs no upsampling at 4:4:4, and libwebp's code paths agree.

    Raises:
        CacheCorrupt: the bytes are not an image of the kept format and size.
    """
    shape = (*kept.size_px, 3)
    if kept.codec == "raw":
        pixels_HW3 = np.frombuffer(data, np.uint8)
        if pixels_HW3.size != np.prod(shape):
            raise _not_kept(f"{len(data):,} bytes", kept, what=what)
        return pixels_HW3.reshape(shape)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise _not_kept(f"{len(data):,} bytes that do not decode", kept, what=what)
    if image.shape != shape:
        raise _not_kept(f"{image.shape[0]}×{image.shape[1]} px", kept, what=what)
    return image.astype(np.uint8, copy=False)


def max_kept_bytes(kept: KeptFormat) -> int:
    """Bytes of one stored view: exact for raw, and for the others at most."""
    num_levels = kept.size_px[0] * kept.size_px[1] * 3
    match kept.codec:
        case "raw":
            return num_levels
        case "jpeg":
            key = "jpeg" if (kept.quality or LOSSLESS) <= 95 else "jpeg above 95"
        case "webp":
            key = "webp"
    return int(num_levels * MAX_BYTES_PER_LEVEL[key]) + MAX_HEADER_BYTES


def _not_kept(got: str, kept: KeptFormat, *, what: str) -> CacheCorrupt:
    return CacheCorrupt(f"{what}: got {got}, expected {kept.title}. Run kd-ray cache repair with this recipe.")
