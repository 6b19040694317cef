"""Projection heads, from the student's width to a teacher's, and the resampling of grids.

Shape letters: B batch, H and W grid, D width.
"""

from typing import assert_never

from torch import Tensor, nn
from torch.nn import functional

from kd_ray.config.losses import Head


def build_head(config: Head, *, in_width: int, out_width: int) -> nn.Module:
    """A map of the last axis, for [B, D] and [B, H, W, D] alike.

    `linear` is LayerNorm, linear; `mlp` is LayerNorm, linear, GELU, LayerNorm, linear.
    """
    match config.kind:
        case "linear":
            return nn.Sequential(nn.LayerNorm(in_width), nn.Linear(in_width, out_width))
        case "mlp":
            return nn.Sequential(
                nn.LayerNorm(in_width),
                nn.Linear(in_width, config.hidden_width),
                nn.GELU(),
                nn.LayerNorm(config.hidden_width),
                nn.Linear(config.hidden_width, out_width),
            )
        case _:
            assert_never(config.kind)


def resample_grid(features_BHWD: Tensor, size: tuple[int, int]) -> Tensor:
    """The map at grid `size` (height, width): bilinear, cell centres aligned, averaging where an axis shrinks."""
    if features_BHWD.shape[1:3] == size:
        return features_BHWD
    shrinks = size[0] < features_BHWD.shape[1] or size[1] < features_BHWD.shape[2]
    resampled_BDHW = functional.interpolate(
        features_BHWD.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )
    return resampled_BDHW.permute(0, 2, 3, 1)
