"""Projection heads, from the student's width to a teacher's, and the resampling of grids.

Shape letters: B batch, H and W grid, N cells, D width.
"""

from typing import assert_never

from torch import Tensor, nn
from torch.nn import functional

from kd_ray.config.heads import AttentionHead, ConvHead, Head, LinearHead, MlpHead

MLP_RATIO = 4  # of a transformer block, as in ViT


def build_head(config: Head, *, in_width: int, out_width: int) -> nn.Module:
    """The head as its configuration describes it; `linear` and `mlp` map the last axis of [B, D] and [B, H, W, D]
    alike, `conv` and `attention` take [B, H, W, D] alone.
    """
    match config:
        case LinearHead():
            return nn.Sequential(nn.LayerNorm(in_width), nn.Linear(in_width, out_width))
        case MlpHead(hidden_width=width):
            return nn.Sequential(
                nn.LayerNorm(in_width),
                nn.Linear(in_width, width),
                *(_Residual(width) for _ in range(config.num_inner)),
                nn.GELU(),
                nn.LayerNorm(width),
                nn.Linear(width, out_width),
            )
        case ConvHead(hidden_width=width):
            return nn.Sequential(
                nn.LayerNorm(in_width),
                _GridConvolution(in_width, width),
                nn.GELU(),
                nn.LayerNorm(width),
                nn.Linear(width, out_width),
            )
        case AttentionHead(hidden_width=width):
            return nn.Sequential(
                nn.LayerNorm(in_width),
                nn.Linear(in_width, width),
                *(_AttentionBlock(width, config.num_attention_heads) for _ in range(config.num_blocks)),
                nn.LayerNorm(width),
                nn.Linear(width, out_width),
            )
        case _:
            assert_never(config)


class _Residual(nn.Module):
    """x + linear(GELU(LayerNorm(x))), the inner block of the heads of RADIO (Ranzinger et al. 2024)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        sum_: Tensor = x + self.inner(x)
        return sum_


class _GridConvolution(nn.Module):
    """3x3, zeros beyond the grid; [B, H, W, D] to [B, H, W, D]."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_width, out_width, kernel_size=3, padding=1)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        x_BDHW: Tensor = self.convolution(x_BHWD.permute(0, 3, 1, 2))
        return x_BDHW.permute(0, 2, 3, 1)


class _AttentionBlock(nn.Module):
    """A pre-norm transformer block (ViT's) in which every cell of [B, H, W, D] attends to all; it adds no positions,
    so that it takes any grid.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, x_BHWD: Tensor) -> Tensor:
        batch, height, width, features = x_BHWD.shape
        x_BND = x_BHWD.reshape(batch, height * width, features)
        parts = self.query_key_value(self.attention_norm(x_BND)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed_BND: Tensor = x_BND + self.projection(attended)
        mixed_BND = mixed_BND + self.mlp(mixed_BND)
        return mixed_BND.reshape(x_BHWD.shape)


def resample_grid(features_BHWD: Tensor, size: tuple[int, int]) -> Tensor:
    """The map at grid `size` (height, width): bilinear, cell centres aligned, averaging where an axis shrinks."""
    if features_BHWD.shape[1:3] == size:
        return features_BHWD
    shrinks = size[0] < features_BHWD.shape[1] or size[1] < features_BHWD.shape[2]
    resampled_BDHW = functional.interpolate(
        features_BHWD.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )
    return resampled_BDHW.permute(0, 2, 3, 1)
