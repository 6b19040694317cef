"""Summary, spatial and logits of a network, all from one forward pass.

Shape letters: B batch, C channels, H and W grid, D width, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config.outputs import POOLED, LastBlocks, Layer, SummarySource, Token
from kd_ray.errors import ModelError
from kd_ray.models.cifar_resnet import CifarResNet
from kd_ray.models.readers.base import LAST_STAGE, Asked, Given, Reader, title_of
from kd_ray.models.readers.dino import DinoReader
from kd_ray.models.readers.hooks import layer_map, layer_summary, seen_in
from kd_ray.models.readers.plain import PlainReader
from kd_ray.models.readers.timm import TimmReader, classifiers
from kd_ray.models.readers.torchvision import TorchvisionReader
from kd_ray.models.readers.transformers import TransformersReader


def model_outputs(
    module: nn.Module,
    x_BCHW: Tensor,
    *,
    names: Sequence[str],
    spatial_stage: int = LAST_STAGE,
    stages: Sequence[int] = (),
    summary_from: SummarySource = POOLED,
    spatial_from: Layer | None = None,
) -> dict[str, Tensor]:
    """The outputs `names`, in that order, from one forward pass; gradients flow through all of them.

    Of each of `stages` there is the map besides, under the name that `stage_output` gives it.

    summary [B, D] is what the classifier gets, or what `summary_from` says; logits [B, K] are what `module(x)` gives;
    spatial [B, H, W, D] is the map of stage (or block) `spatial_stage`, through the model's final norm where timm
    applies one to its maps, without prefix tokens, or that of the layer `spatial_from`. ConvNeXt and its like normalise
    after pooling, so their spatial is not normalised.

    Raises:
        ModelError: the model lacks an output, the stage, the class token or the layer.
    """
    reader = reader_of(module)
    layers = {
        **({"summary": summary_from} if isinstance(summary_from, Layer) and "summary" in names else {}),
        **({"spatial": spatial_from} if spatial_from is not None and "spatial" in names else {}),
    }
    read = [name for name in names if name not in layers]
    _check_available(module, reader, names=read)
    maps = {stage_output(stage): stage for stage in stages}
    if "spatial" in read:
        maps["spatial"] = spatial_stage
    asked = _asked(module, reader, names=read, stages=tuple(maps.values()), summary_from=summary_from)
    with seen_in(module, outputs=sorted({each.layer for each in layers.values()})) as found:
        if asked.nothing:
            module(x_BCHW)
            given = Given()
        else:
            given = reader.read(x_BCHW, asked)
    map_of = dict(zip(maps, given.maps, strict=True))
    outputs: dict[str, Tensor] = {}
    for name in (*names, *map(stage_output, stages)):
        if name == "logits":
            outputs[name] = _present(given.logits)
        elif name == "summary":
            outputs[name] = layer_summary(layers[name], found) if name in layers else _summary(given, summary_from)
        else:
            map_BDHW = layer_map(layers[name], found, x_BCHW.shape[2:]) if name in layers else map_of[name]
            outputs[name] = map_BDHW.permute(0, 2, 3, 1).contiguous()
    return outputs


def stage_output(stage: int) -> str:
    """What the map of a stage is called among a model's outputs."""
    return f"stage_{stage}"


def cell_size_px(module: nn.Module, *, stage: int) -> int | None:
    """How many pixels of the input a cell of a stage's map stands for, along each axis; None where nothing tells."""
    if isinstance(module, CifarResNet):
        return 1 << (stage % module.num_stages)
    network: Any = module
    if hasattr(module, "feature_info"):
        reduction: int = network.feature_info[stage]["reduction"]
        return reduction
    patch_px = getattr(module, "patch_size", getattr(getattr(module, "config", None), "patch_size", None))
    return patch_px if isinstance(patch_px, int) else None


def reader_of(module: nn.Module) -> Reader:
    """How the outputs of `module` are read, seen from its interface; its `forward` alone where it has none known."""
    origin = type(module).__module__
    if origin.startswith("torchvision."):
        return TorchvisionReader(module)
    if hasattr(module, "forward_features") and hasattr(module, "forward_head"):
        return TimmReader(module)
    if hasattr(module, "get_intermediate_layers"):
        return DinoReader(module)
    if origin.startswith("transformers."):
        return TransformersReader(module)
    return PlainReader(module)


def available_outputs(module: nn.Module) -> tuple[str, ...] | None:
    """The outputs that `module` has; None where only running it tells."""
    return reader_of(module).available()


class OutputModel(nn.Module):
    """`module` with `model_outputs` as its forward pass, so that DistributedDataParallel sees every call.

    Save and load through `.module`. Without logits nothing reaches the classifier, and DistributedDataParallel would
    wait for its gradients for ever: its parameters then stop requiring gradients.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        names: Sequence[str],
        spatial_stage: int = LAST_STAGE,
        summary_from: SummarySource = POOLED,
        spatial_from: Layer | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(summary_from, Layer) and spatial_from is None:
            _check_available(module, reader_of(module), names=names)
        self.module = module
        self.names = tuple(names)
        self.spatial_stage = spatial_stage
        self.summary_from = summary_from
        self.spatial_from = spatial_from
        if "logits" not in names:
            for layer in classifiers(module):
                layer.requires_grad_(requires_grad=False)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        return model_outputs(
            self.module,
            x_BCHW,
            names=self.names,
            spatial_stage=self.spatial_stage,
            summary_from=self.summary_from,
            spatial_from=self.spatial_from,
        )


def _check_available(module: nn.Module, reader: Reader, *, names: Sequence[str]) -> None:
    available = reader.available()
    if available is None:
        return
    lacking = [name for name in names if name not in available]
    if lacking:
        raise ModelError(
            f"{title_of(module)} has no {' and no '.join(lacking)}; it has {', '.join(available) or 'no outputs'}. "
            f"Ask for those, or use another model{' or give num_classes' if 'logits' in lacking else ''}."
        )


def _asked(
    module: nn.Module, reader: Reader, *, names: Sequence[str], stages: Sequence[int], summary_from: SummarySource
) -> Asked:
    num_blocks = _num_blocks(summary_from) if "summary" in names else 0
    num_stages = reader.num_stages() if stages or num_blocks else 0
    for stage in stages:
        if not -num_stages <= stage < num_stages:
            raise ModelError(
                f"{title_of(module)} has no spatial output of stage {stage}; it has {num_stages} stages, "
                f"0 to {num_stages - 1}, and {LAST_STAGE} means the last."
            )
    if num_blocks and not reader.has_class_token():
        raise ModelError(
            f"{title_of(module)} has no class token in its blocks, which outputs.summary_from asks for. Take kind: "
            "pooled, which is what its classifier gets, or kind: layer."
        )
    if num_blocks > num_stages:
        raise ModelError(
            f"{title_of(module)} has {num_stages} blocks; outputs.summary_from.count asks for {num_blocks}."
        )
    return Asked(
        pooled="summary" in names and not num_blocks,
        logits="logits" in names,
        stages=tuple(stage % num_stages for stage in stages),
        num_blocks=num_blocks,
    )


def _num_blocks(summary_from: SummarySource) -> int:
    match summary_from:
        case LastBlocks():
            return summary_from.count
        case Token(kind="cls" | "cls_mean"):
            return 1
        case _:
            return 0


def _summary(given: Given, summary_from: SummarySource) -> Tensor:
    if not given.tokens:
        return _present(given.pooled_BD)
    tokens = [cls_BD for cls_BD, _ in given.tokens]
    if summary_from.kind == "cls_mean" or (isinstance(summary_from, LastBlocks) and summary_from.mean):
        tokens.append(given.tokens[-1][1].mean(dim=1))
    return torch.cat(tokens, dim=1)


def _present(value: Tensor | None) -> Tensor:
    assert value is not None, "a reader gives what it is asked for"
    return value
