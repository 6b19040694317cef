"""What a model will give, found without weights and without computing: on PyTorch's meta device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config.models import Model, TimmModel
from kd_ray.errors import ModelError
from kd_ray.models.build import build_model
from kd_ray.models.outputs import cell_size_px, model_outputs


def output_shapes(
    config: Model,
    *,
    size_px: tuple[int, int],
    num_classes: int | None,
    names: Sequence[str],
    spatial_stage: int,
    stages: Sequence[int] = (),
) -> dict[str, tuple[int, ...]]:
    """Per-sample shapes of `names` and `stages`, for instance summary (768,) and spatial (16, 16, 768), for input of
    `size_px`.

    Raises:
        ModelError: the model cannot be built, lacks an output, or does not take this input size.
    """
    outputs = _meta_outputs(_meta_model(config, num_classes), config, size_px, names, spatial_stage, stages)
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}


def parameter_count(config: Model, *, num_classes: int | None) -> int:
    """How many parameters the model has."""
    return sum(parameter.numel() for parameter in _meta_model(config, num_classes).parameters())


def reached_parameters(
    config: Model,
    *,
    size_px: tuple[int, int],
    num_classes: int | None,
    names: Sequence[str],
    spatial_stage: int,
    stages: Sequence[int] = (),
) -> frozenset[str]:
    """Names of the parameters that the gradient of `names` and `stages` reaches: all that losses on those train."""
    module = _meta_model(config, num_classes)
    parameters = dict(module.named_parameters())
    outputs = _meta_outputs(module, config, size_px, names, spatial_stage, stages)
    total = torch.stack([output.sum() for output in outputs.values()]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)


def grid_cover(config: Model, *, size_px: tuple[int, int], spatial_stage: int) -> tuple[float, float]:
    """How far the cells of a map reach, in shares of the input's height and width.

    It is more than 1 where the model pads to whole cells, and less where it leaves the last pixels out.

    Raises:
        ModelError: the model cannot be built, has no such map, or does not take this input size.
    """
    module = _meta_model(config, None)
    rows, columns, _ = _meta_outputs(module, config, size_px, ("spatial",), spatial_stage, ())["spatial"].shape[1:]
    cell_px = cell_size_px(module, stage=spatial_stage)
    return rows * cell_px / size_px[0], columns * cell_px / size_px[1]


def uncovered_patch_px(config: Model, *, size_px: tuple[int, int]) -> tuple[int, int] | None:
    """The patches (height, width) of a model that would leave out the last rows or columns of its input; else None.

    Convolutional networks have none, and some models pad their input. A model that takes one size only is asked about
    no other: it refuses that by itself.

    Raises:
        ModelError: the model cannot be built.
    """
    if not isinstance(config, TimmModel):
        return None
    module = _meta_model(config, None)
    from timm.layers.hybrid_embed import HybridEmbed
    from timm.layers.patch_embed import PatchEmbed

    embeds: list[Any] = [each for each in module.children() if isinstance(each, PatchEmbed | HybridEmbed)]
    for embed in embeds:
        if embed.dynamic_img_pad:
            continue
        height, width = embed.feat_ratio(as_scalar=False)
        takes_it = not embed.strict_img_size or embed.img_size in (None, size_px)
        if takes_it and (size_px[0] % height or size_px[1] % width):
            return height, width
    return None


def _meta_model(config: Model, num_classes: int | None) -> nn.Module:
    if isinstance(config, TimmModel):
        config = config.model_copy(update={"pretrained": False})
    with torch.device("meta"):
        return build_model(config, num_classes=num_classes).eval()


def _meta_outputs(
    module: nn.Module,
    config: Model,
    size_px: tuple[int, int],
    names: Sequence[str],
    spatial_stage: int,
    stages: Sequence[int],
) -> dict[str, Tensor]:
    x_BCHW = torch.empty(1, 3, *size_px, device="meta")
    try:
        return model_outputs(module, x_BCHW, names=names, spatial_stage=spatial_stage, stages=stages)
    except (AssertionError, RuntimeError) as error:
        raise ModelError(
            f"{config.title} cannot give {', '.join(names)} for {size_px[0]}x{size_px[1]} px: "
            f"{str(error).rstrip('.')}. Ask for other outputs, change the size (input.size_px, or that of the kind of "
            "views), or give model.args (img_size, dynamic_img_size: true)."
        ) from error
