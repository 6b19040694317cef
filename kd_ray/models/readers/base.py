"""What is asked of one forward pass, and what a family of networks gives.

Shape letters: B batch, C channels, H and W grid, D width, K classes, N places of the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from kd_ray.errors import ModelError

LAST_STAGE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`stages` counts from the first; `num_blocks` 0: no class tokens."""

    pooled: bool = False
    logits: bool = False
    stages: tuple[int, ...] = ()
    num_blocks: int = 0

    @property
    def nothing(self) -> bool:
        """Whether no output is wanted, as where a layer gives all of them."""
        return not (self.pooled or self.logits or self.num_blocks or self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Maps [B, D, H, W] of the stages, and (class token, patch tokens) of the last blocks after the norm."""

    pooled_BD: Tensor | None = None
    logits: Tensor | None = None
    maps: Sequence[Tensor] = ()
    tokens: Sequence[tuple[Tensor, Tensor]] = ()


class Reader(Protocol):
    """How the outputs of one network are read."""

    def available(self) -> tuple[str, ...] | None:
        """Outputs that it has; None where only running it tells."""
        ...

    def num_stages(self) -> int:
        """Stages or blocks whose maps it has."""
        ...

    def has_class_token(self) -> bool:
        """Whether its blocks have one."""
        ...

    def read(self, x_BCHW: Tensor, asked: Asked) -> Given:
        """One forward pass."""
        ...


def title_of(module: nn.Module) -> str:
    """What people call a built network."""
    configuration: Any = getattr(module, "pretrained_cfg", None)
    named = configuration.get("architecture") if isinstance(configuration, dict) else None
    return str(named or type(module).__name__)


def as_map(tokens_BND: Tensor, size_px: Sequence[int], *, what: str) -> Tensor:
    """Tokens in raster order as [B, D, H, W], on a grid of the shape of the input of `size_px`.

    Raises:
        ModelError: no such grid has as many places.
    """
    num_places, (height_px, width_px) = tokens_BND.shape[1], size_px
    height = round((num_places * height_px / width_px) ** 0.5)
    width = num_places // max(height, 1)
    if height * width != num_places or height * width_px != width * height_px:
        raise ModelError(
            f"{what} gives {num_places} tokens, which are no grid of the shape of {height_px}x{width_px} px. Say "
            "how many of them come before the grid (prefix_tokens), or take another layer."
        )
    return tokens_BND.transpose(1, 2).reshape(len(tokens_BND), -1, height, width)
