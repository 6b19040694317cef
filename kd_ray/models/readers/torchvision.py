"""Classification models of torchvision, read by hooks on their parts.

Shape letters: B batch, C channels, H and W grid, D width, N tokens.
"""

from typing import Any

from torch import Tensor, nn

from kd_ray.models.kinds.torchvision import last_linear
from kd_ray.models.readers.base import Asked, Given, as_map
from kd_ray.models.readers.hooks import seen_in

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


class TorchvisionReader:
    """Stages are a ResNet's layers, a RegNet's and MaxViT's blocks, a ViT's blocks, or the parts of `features`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._classifier = last_linear(module)
        self._stages = _stages(module)
        self._is_vit = hasattr(module, "conv_proj")
        self._is_swin = hasattr(module, "permute")

    def available(self) -> tuple[str, ...]:
        """Outputs that it has."""
        summary = ("summary",) if self._classifier is not None else ()
        return (*summary, *(("spatial",) if self._stages else ()), "logits")

    def num_stages(self) -> int:
        """Stages or blocks whose maps it has."""
        return len(self._stages)

    def has_class_token(self) -> bool:
        """Whether its blocks have one."""
        return self._is_vit

    def read(self, x_BCHW: Tensor, asked: Asked) -> Given:
        """One forward pass."""
        last = len(self._stages)
        blocks = self._stages[last - asked.num_blocks :] if asked.num_blocks else ()
        stages = [self._stages[stage] for stage in asked.stages]
        inputs = (self._classifier,) if asked.pooled and self._classifier is not None else ()
        with seen_in(self._module, outputs=sorted({*blocks, *stages}), inputs=inputs) as found:
            logits = self._module(x_BCHW)
        if not isinstance(logits, Tensor):  # GoogLeNet and Inception give auxiliary logits too while they train
            logits = logits.logits
        return Given(
            pooled_BD=found[f"{self._classifier}:input"] if inputs else None,
            logits=logits,
            maps=[self._map(found[stage], x_BCHW, stage=stage) for stage in stages],
            tokens=[self._tokens(found[name]) for name in blocks],
        )

    def _tokens(self, block_BND: Tensor) -> tuple[Tensor, Tensor]:
        network: Any = self._module
        normed_BND = network.encoder.ln(block_BND)
        return normed_BND[:, 0], normed_BND[:, 1:]

    def _map(self, value: Tensor, x_BCHW: Tensor, *, stage: str) -> Tensor:
        network: Any = self._module
        if self._is_vit:
            return as_map(self._tokens(value)[1], x_BCHW.shape[2:], what=stage)
        if self._is_swin:  # [B, H, W, C]; its norm is that of the last stage's width
            normed = network.norm(value) if stage == self._stages[-1] else value
            return normed.permute(0, 3, 1, 2)
        return value


def _stages(module: nn.Module) -> tuple[str, ...]:
    children = dict(module.named_children())
    if set(RESNET_STAGES) <= children.keys():
        return RESNET_STAGES
    for name in ("encoder.layers", "trunk_output", "blocks", "features"):
        if name.partition(".")[0] in children:
            return tuple(f"{name}.{child}" for child, _ in module.get_submodule(name).named_children())
    return ()
