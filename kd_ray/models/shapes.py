"""What a model will give, found before any work: without computing on PyTorch's meta device, or by one small batch on
the CPU for networks whose code is not kd_ray's to know.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config.models import Model, TimmModel
from kd_ray.config.networks import CheckpointModel, ExportedModel, PythonModel, TorchHubModel, TorchvisionModel
from kd_ray.config.outputs import POOLED, Layer, SummarySource
from kd_ray.errors import ModelError
from kd_ray.models.build import build_model, without_pretrained
from kd_ray.models.kinds.checkpoint import exported_model, refuse_other_classes
from kd_ray.models.outputs import cell_size_px, model_outputs

RUN_ON_CPU = (TorchHubModel, PythonModel, ExportedModel)
NUM_TRIED = 3  # programs are often exported for batches of one size, of 1 or 2


def output_shapes(
    config: Model,
    *,
    size_px: tuple[int, int],
    num_classes: int | None,
    names: Sequence[str],
    spatial_stage: int,
    stages: Sequence[int] = (),
    summary_from: SummarySource = POOLED,
    spatial_from: Layer | None = None,
) -> dict[str, tuple[int, ...]]:
    """Per-sample shapes of `names` and `stages`, for instance summary (768,) and spatial (16, 16, 768), for input of
    `size_px`.

    Raises:
        ModelError: the model cannot be built, lacks an output, does not take this input size, or is for another number
            of classes.
    """
    module = _shape_model(config, num_classes)
    outputs = _tried(
        module,
        config,
        size_px,
        names,
        spatial_stage,
        stages=stages,
        summary_from=summary_from,
        spatial_from=spatial_from,
    )
    shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    if num_classes is not None and "logits" in shapes and shapes["logits"][-1] != num_classes:
        raise ModelError(
            f"{config.title} gives logits of {shapes['logits'][-1]} classes, {num_classes} are needed. Let it take "
            "num_classes, or use another model."
        )
    return shapes


def parameter_count(config: Model, *, num_classes: int | None) -> int:
    """How many parameters the model has."""
    return sum(parameter.numel() for parameter in _shape_model(config, num_classes).parameters())


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
    module = _shape_model(config, num_classes)
    parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
    outputs = _tried(module, config, size_px, names, spatial_stage, stages=stages)
    total = torch.stack([output.sum() for output in outputs.values()]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)


def grid_cover(config: Model, *, size_px: tuple[int, int], spatial_stage: int) -> tuple[float, float]:
    """How far the cells of a map reach, in shares of the input's height and width.

    It is more than 1 where the model pads to whole cells, and less where it leaves the last pixels out. A network that
    does not tell the size of its cells is taken for one that halves its input, rounding up, or else for one that covers
    it.

    Raises:
        ModelError: the model cannot be built, has no such map, or does not take this input size.
    """
    module = _shape_model(config, None)
    rows, columns, _ = _tried(module, config, size_px, ("spatial",), spatial_stage)["spatial"].shape[1:]
    cell_px = cell_size_px(module, stage=spatial_stage) or _halving(size_px, (rows, columns))
    if cell_px is None:
        return 1.0, 1.0
    return rows * cell_px / size_px[0], columns * cell_px / size_px[1]


def _halving(size_px: tuple[int, int], grid: tuple[int, int]) -> int | None:
    """The power of 2 by which an input of `size_px` is divided, rounding up, to give the grid."""
    powers = (1 << power for power in range(8))
    return next((each for each in powers if tuple(-(-side // each) for side in size_px) == grid), None)


def uncovered_patch_px(config: Model, *, size_px: tuple[int, int]) -> tuple[int, int] | None:
    """The patches (height, width) of a model that would leave out the last rows or columns of its input; else None.

    Convolutional networks have none, and some models pad their input. A model that takes one size only is asked about
    no other: it refuses that by itself.

    Raises:
        ModelError: the model cannot be built.
    """
    if not isinstance(config, TimmModel):
        return None
    module = _shape_model(config, None)
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


def _shape_model(config: Model, num_classes: int | None) -> nn.Module:
    if isinstance(config, RUN_ON_CPU):
        return build_model(without_pretrained(config), num_classes=num_classes).eval()
    if isinstance(config, TorchvisionModel):  # RegNets compute their widths with tensors while they are built
        return build_model(without_pretrained(config), num_classes=num_classes).eval().to("meta")
    with torch.device("meta"):
        if isinstance(config, CheckpointModel):
            config, num_classes = _described(config, num_classes)
        return build_model(without_pretrained(config), num_classes=num_classes).eval()


def _described(config: CheckpointModel, num_classes: int | None) -> tuple[Model, int]:
    model, own = exported_model(config)
    refuse_other_classes(config, own, num_classes)
    return model, own


def _tried(
    module: nn.Module,
    config: Model,
    size_px: tuple[int, int],
    names: Sequence[str],
    spatial_stage: int,
    *,
    stages: Sequence[int] = (),
    summary_from: SummarySource = POOLED,
    spatial_from: Layer | None = None,
) -> dict[str, Tensor]:
    on_cpu = isinstance(config, RUN_ON_CPU)
    shape = (NUM_TRIED if on_cpu else 1, 3, *size_px)
    x_BCHW = torch.zeros(shape) if on_cpu else torch.empty(shape, device="meta")
    try:
        return model_outputs(
            module,
            x_BCHW,
            names=names,
            spatial_stage=spatial_stage,
            stages=stages,
            summary_from=summary_from,
            spatial_from=spatial_from,
        )
    except ModelError:
        raise
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(config, RUN_ON_CPU):
            raise ModelError(
                f"{config.title} fails on a batch of {NUM_TRIED} images of {size_px[0]}x{size_px[1]} px: "
                f"{str(error).rstrip('.')}. It has to take [B, 3, H, W] of any B at input.size_px."
            ) from error
        raise ModelError(
            f"{config.title} cannot give {', '.join(names)} for {size_px[0]}x{size_px[1]} px: "
            f"{str(error).rstrip('.')}. Ask for other outputs, change the size (input.size_px, or that of the kind of "
            "views), or give model.args (img_size, dynamic_img_size: true)."
        ) from error
