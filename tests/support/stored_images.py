"""Images as they are stored: of every size from 1x1, mode and format that a corpus takes, drawn by hypothesis."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

SHARP, SMOOTH, FLAT = "sharp", "smooth", "flat"
EXTREME_SIZES_PX = ((1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (30, 4000), (4000, 30), (1, 4000), (4000, 1))
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "WEBP": ("L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"),
    "GIF": ("1", "L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
}
ORIENTATION_TAG = 0x0112

image_sizes_px = st.tuples(st.integers(1, 70), st.integers(1, 70)) | st.sampled_from(EXTREME_SIZES_PX)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What was encoded how; hypothesis shows this and not the bytes."""

    size_px: tuple[int, int]
    image_format: str
    mode: str
    options: tuple[tuple[str, Any], ...]
    texture: str
    seed: int

    def data(self) -> bytes:
        """The encoded image."""
        buffer, options = io.BytesIO(), dict(self.options)
        if "orientation" in options:
            exif = Image.Exif()
            exif[ORIENTATION_TAG] = options.pop("orientation")
            options["exif"] = exif
        self.picture().save(buffer, format=self.image_format, **options)
        return buffer.getvalue()

    def picture(self) -> Image.Image:
        """As Pillow has it before it is encoded."""
        if self.mode == "I;16":
            return Image.fromarray(_levels(self.size_px, 1, self.texture, self.seed)[..., 0].astype(np.uint16) * 257)
        num_channels = {"RGBA": 4, "CMYK": 4, "LA": 4}.get(self.mode, 3)
        levels_HWC = _levels(self.size_px, num_channels, self.texture, self.seed)
        if self.mode == "CMYK":
            return Image.fromarray(levels_HWC, "CMYK")
        return Image.fromarray(levels_HWC).convert(self.mode)


@st.composite
def stored_images(draw: st.DrawFn, *, sizes_px: st.SearchStrategy[tuple[int, int]] = image_sizes_px) -> StoredImage:
    image_format = draw(st.sampled_from(sorted(MODES)))
    return StoredImage(
        size_px=draw(sizes_px),
        image_format=image_format,
        mode=draw(st.sampled_from(MODES[image_format])),
        options=tuple(sorted(draw(_options(image_format)).items())),
        texture=draw(st.sampled_from((SHARP, SMOOTH, FLAT))),
        seed=draw(st.integers(0, 2**16)),
    )


def _options(image_format: str) -> st.SearchStrategy[dict[str, Any]]:
    orientation = st.integers(1, 8)
    match image_format:
        case "JPEG":
            any_jpeg = {"subsampling": st.integers(0, 2), "orientation": orientation}
            # Pillow's buffer for the scans of a progressive JPEG is too small for noise of high quality
            return st.fixed_dictionaries({"quality": st.integers(1, 100)}, optional=any_jpeg) | st.fixed_dictionaries(
                {"quality": st.integers(1, 30), "progressive": st.just(True)}, optional=any_jpeg
            )
        case "PNG":
            return st.fixed_dictionaries({}, optional={"orientation": orientation})
        case "WEBP":
            return st.fixed_dictionaries({"lossless": st.booleans()}, optional={"orientation": orientation})
        case "TIFF":
            return st.fixed_dictionaries({}, optional={"compression": st.sampled_from(["tiff_lzw", "tiff_deflate"])})
        case _:
            return st.just({})


def _levels(size_px: tuple[int, int], num_channels: int, texture: str, seed: int) -> np.ndarray:
    """uint8 [H, W, channels]."""
    height, width = size_px
    random = np.random.default_rng(seed)
    if texture == SHARP:
        return random.integers(0, 256, (height, width, num_channels), dtype=np.uint8)
    start, slope_y, slope_x = random.integers(0, 256, (3, num_channels))
    if texture == FLAT:
        slope_y, slope_x = slope_y * 0, slope_x * 0
    y_H11, x_1W1 = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    return ((start + slope_y * y_H11 // height + slope_x * x_1W1 // width) % 256).astype(np.uint8)
