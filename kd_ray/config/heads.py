"""Projection heads: maps from a student's width to a teacher's."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt


class LinearHead(Section):
    """LayerNorm, linear."""

    kind: Literal["linear"] = "linear"
    # it has no inner width; fingerprints over a dump are older than the other heads, and have this number
    hidden_width: Literal[1024] = 1024


class MlpHead(Section):
    """LayerNorm, linear to `hidden_width`, `num_inner` residual blocks (LayerNorm, GELU, linear), GELU, LayerNorm,
    linear.
    """

    kind: Literal["mlp"]
    hidden_width: PositiveInt = 1024
    num_inner: Annotated[int, Field(ge=0)] = Field(default=0, exclude_if=lambda count: count == 0)


class ConvHead(Section):
    """LayerNorm, 3x3 convolution to `hidden_width`, GELU, LayerNorm, linear; for grids."""

    kind: Literal["conv"]
    hidden_width: PositiveInt = 1024


class AttentionHead(Section):
    """LayerNorm, linear to `hidden_width`, transformer blocks over all cells, LayerNorm, linear; for grids."""

    kind: Literal["attention"]
    hidden_width: PositiveInt = 256
    num_blocks: Annotated[int, Field(ge=1, le=2)] = 1
    num_attention_heads: PositiveInt = 4

    @model_validator(mode="after")
    def _widths_fit(self) -> "AttentionHead":
        if self.hidden_width % self.num_attention_heads:
            reason = f"hidden_width ({self.hidden_width}) must be a multiple of it"
            raise Misfits([("num_attention_heads", reason)])
        return self


Head = Annotated[LinearHead | MlpHead | ConvHead | AttentionHead, Field(discriminator="kind")]
