"""Backbones with the interface of the DINOv2 and DINOv3 repositories.

Shape letters: B batch, H and W grid, D width.
"""

from typing import Any

from torch import Tensor, nn

from kd_ray.models.readers.base import Asked, Given, as_map, title_of


class DinoReader:
    """Reads `get_intermediate_layers`; the summary is the class token after the norm, as `forward` gives it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._backbone: Any = module

    def available(self) -> tuple[str, ...]:
        """Outputs that it has."""
        has_classifier = isinstance(getattr(self._module, "head", None), nn.Linear)
        return ("summary", "spatial", *(("logits",) if has_classifier else ()))

    def num_stages(self) -> int:
        """Blocks whose maps it has."""
        return int(getattr(self._module, "n_blocks", 0) or len(self._backbone.blocks))

    def has_class_token(self) -> bool:
        """Whether its blocks have one."""
        return True

    def read(self, x_BCHW: Tensor, asked: Asked) -> Given:
        """One forward pass."""
        last = self.num_stages()
        blocks = range(last - max(asked.num_blocks, 1), last)
        indices = sorted({*blocks, *asked.stages})
        found = self._backbone.get_intermediate_layers(
            x_BCHW, n=indices, reshape=False, return_class_token=True, norm=True
        )
        of_index = dict(zip(indices, found, strict=True))  # (patch tokens, class token)
        cls_BD = of_index[last - 1][1]
        return Given(
            pooled_BD=cls_BD,
            logits=self._backbone.head(cls_BD) if asked.logits else None,
            maps=[
                as_map(of_index[stage][0], x_BCHW.shape[2:], what=f"{title_of(self._module)}: block {stage}")
                for stage in asked.stages
            ],
            tokens=[(of_index[i][1], of_index[i][0]) for i in blocks] if asked.num_blocks else [],
        )
