"""How rendered views are kept. This module imports neither torch nor ray."""

from dataclasses import dataclass
from typing import Any, Literal

from kd_ray.config.operations import Interpolation

KeptCodec = Literal["raw", "webp", "jpeg"]

KEPT_INTERPOLATION: Interpolation = "bicubic"  # by which views come to their stored size, whoever reads them
DEFAULT_QUALITY = 95


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFormat:
    """A view's pixels as they are stored: (height, width), codec, and quality (None for raw).

    JPEG keeps full colour resolution (4:4:4). WebP is lossy below quality 100 and lossless at it.
    """

    size_px: tuple[int, int]
    codec: KeptCodec
    quality: int | None

    def identity(self) -> dict[str, Any]:
        """What decides the stored pixels."""
        return {
            "size_px": list(self.size_px),
            "interpolation": KEPT_INTERPOLATION,
            "codec": self.codec,
            "quality": self.quality,
        }

    @property
    def title(self) -> str:
        """`224×224 px, jpeg at quality 95`."""
        height, width = self.size_px
        return f"{height}×{width} px, {self.codec}" + ("" if self.quality is None else f" at quality {self.quality}")
