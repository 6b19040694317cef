"""Summary, spatial and logits of a network, all from one forward pass.

Shape letters: B batch, C channels, H and W grid, D width, K classes.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_ray.errors import ModelError
from kd_ray.models.cifar_resnet import CifarResNet

LAST_STAGE = -1


def model_outputs(
    module: nn.Module,
    x_BCHW: Tensor,
    *,
    names: Sequence[str],
    spatial_stage: int = LAST_STAGE,
    stages: Sequence[int] = (),
) -> dict[str, Tensor]:
    """The outputs `names`, in that order, from one forward pass; gradients flow through all of them.

    Of each of `stages` there is the map besides, under the name that `stage_output` gives it.

    summary [B, D] is what the classifier gets; logits [B, K] are what `module(x)` gives; spatial [B, H, W, D] is the
    map of stage (or block) `spatial_stage`, through the model's final norm where timm applies one to its maps, without
    prefix tokens. ConvNeXt and its like normalise after pooling, so their spatial is not normalised.

    Raises:
        ModelError: the model lacks an output or the stage.
    """
    _check_available(module, names=names)
    # Networks outside nn.Module's interface: timm's are untyped.
    backbone: Any = module
    wanted = {stage_output(stage): stage for stage in stages}
    if "spatial" in names:
        wanted["spatial"] = spatial_stage
    if wanted:
        features, maps = _features_and_maps(module, x_BCHW, stages=tuple(wanted.values()))
        outputs = {name: map_BDHW.permute(0, 2, 3, 1).contiguous() for name, map_BDHW in zip(wanted, maps, strict=True)}
    else:
        features, outputs = backbone.forward_features(x_BCHW), {}
    if "summary" in names and "logits" in names:
        outputs["summary"], outputs["logits"] = _summary_and_logits(backbone, features)
    elif "summary" in names:
        outputs["summary"] = backbone.forward_head(features, pre_logits=True)
    elif "logits" in names:
        outputs["logits"] = backbone.forward_head(features)
    return {name: outputs[name] for name in (*names, *map(stage_output, stages))}


def stage_output(stage: int) -> str:
    """What the map of a stage is called among a model's outputs."""
    return f"stage_{stage}"


def cell_size_px(module: nn.Module, *, stage: int) -> int:
    """How many pixels of the input a cell of a stage's map stands for, along each axis."""
    if isinstance(module, CifarResNet):
        return 1 << (stage % module.num_stages)
    info: Any = module.feature_info
    cell_px: int = info[stage]["reduction"]
    return cell_px


def available_outputs(module: nn.Module) -> tuple[str, ...]:
    """The outputs that `module` has."""
    has = {
        "summary": hasattr(module, "forward_head"),
        "spatial": hasattr(module, "forward_intermediates") or isinstance(module, CifarResNet),
        "logits": getattr(module, "num_classes", 0) > 0,
    }
    return tuple(name for name, present in has.items() if present)


class OutputModel(nn.Module):
    """`module` with `model_outputs` as its forward pass, so that DistributedDataParallel sees every call.

    Save and load through `.module`. Without logits nothing reaches the classifier, and DistributedDataParallel would
    wait for its gradients for ever: its parameters then stop requiring gradients.
    """

    def __init__(self, module: nn.Module, *, names: Sequence[str], spatial_stage: int = LAST_STAGE) -> None:
        super().__init__()
        _check_available(module, names=names)
        self.module = module
        self.names = tuple(names)
        self.spatial_stage = spatial_stage
        if "logits" not in names:
            for layer in _classifiers(module):
                layer.requires_grad_(requires_grad=False)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        return model_outputs(self.module, x_BCHW, names=self.names, spatial_stage=self.spatial_stage)


def _check_available(module: nn.Module, *, names: Sequence[str]) -> None:
    available = available_outputs(module)
    lacking = [name for name in names if name not in available]
    if lacking:
        raise ModelError(
            f"{_title(module)} has no {' and no '.join(lacking)}; it has {', '.join(available) or 'no outputs'}. "
            f"Ask for those, or use another model{' or give num_classes' if 'logits' in lacking else ''}."
        )


def _features_and_maps(module: nn.Module, x_BCHW: Tensor, *, stages: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """What `forward_head` takes, and the maps [B, D, H, W] of `stages`."""
    num_stages = _num_stages(module)
    for stage in stages:
        if not -num_stages <= stage < num_stages:
            raise ModelError(
                f"{_title(module)} has no spatial output of stage {stage}; it has {num_stages} stages, "
                f"0 to {num_stages - 1}, and {LAST_STAGE} means the last."
            )
    numbers = [stage % num_stages for stage in stages]
    if isinstance(module, CifarResNet):
        maps = module.forward_stages(x_BCHW)
        return maps[-1], [maps[number] for number in numbers]
    backbone: Any = module
    taken = sorted(set(numbers))
    features, maps = backbone.forward_intermediates(x_BCHW, indices=taken, norm=True, output_fmt="NCHW")
    return features, [maps[taken.index(number)] for number in numbers]


def _num_stages(module: nn.Module) -> int:
    if isinstance(module, CifarResNet):
        return module.num_stages
    info: Any = module.feature_info
    return len(info)


def _summary_and_logits(backbone: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Both from one pass through the head: a second would draw other dropout and update BatchNorm statistics again."""
    classifier = backbone.get_classifier()
    if not isinstance(classifier, nn.Linear):  # two classifiers, as distilled DeiT, or one with a norm inside
        return backbone.forward_head(features, pre_logits=True), backbone.forward_head(features)
    seen: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        logits_BK = backbone.forward_head(features)
    finally:
        handle.remove()
    if seen[0].ndim != 2:  # attention pooling that classifies every token and keeps the first, as CLIP's ResNets
        return backbone.forward_head(features, pre_logits=True), logits_BK
    return seen[0], logits_BK


def _classifiers(module: nn.Module) -> tuple[nn.Module, ...]:
    backbone: Any = module
    classifier = backbone.get_classifier()
    return tuple(classifier) if isinstance(classifier, tuple | list | nn.ModuleList) else (classifier,)


def _title(module: nn.Module) -> str:
    configuration = getattr(module, "pretrained_cfg", {})
    return str(configuration.get("architecture", type(module).__name__))
