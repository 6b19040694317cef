"""Optimiser and learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.errors import ModelError

ONE_CYCLE_START = 1 / 25  # of the full learning rate: div_factor of torch's OneCycleLR


def build_optimizer(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser over the trainable parameters; biases, norms and `module.no_weight_decay()` are not decayed.

    Give the module itself, not its DistributedDataParallel wrapper, which hides `no_weight_decay`.

    Raises:
        ModelError: `layer_decay` is asked of a model that does not say which parameters make a layer.
    """
    import timm.optim  # 4 s, torchvision included: only where something is trained

    optimizer = timm.optim.create_optimizer_v2(  # type: ignore[attr-defined]
        module if config.layer_decay is None else _layer_groups(config, module, layer_decay=config.layer_decay),
        # timm's "sgd" is Nesterov's, which needs momentum
        opt="momentum" if config.kind == "sgd" and config.momentum == 0 else config.kind,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        filter_bias_and_bn=True,
    )
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def _layer_groups(config: Optimizer, module: nn.Module, *, layer_decay: float) -> list[dict[str, Any]]:
    """The backbone's layers, each at its own learning rate, and all else (projection heads) at the full one."""
    import timm.optim

    backbone = getattr(module, "backbone", module)
    if not hasattr(backbone, "group_matcher"):
        raise ModelError(
            f"train.optimizer.layer_decay: {type(backbone).__name__} does not tell its layers apart (it has no "
            "group_matcher). Remove layer_decay, or use one of timm's models."
        )
    exempt: set[str] = getattr(backbone, "no_weight_decay", set)()
    layers = timm.optim.param_groups_layer_decay(  # type: ignore[attr-defined]
        backbone, weight_decay=config.weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    of_layers = {id(parameter) for group in layers for parameter in group["params"]}
    rest = [each for each in module.parameters() if each.requires_grad and id(each) not in of_layers]
    groups = [
        {
            **{key: value for key, value in group.items() if key != "lr_scale"},
            "lr": config.learning_rate * group["lr_scale"],
        }
        for group in layers
    ]
    return [*groups, *_decay_groups(rest, weight_decay=config.weight_decay)]


def _decay_groups(parameters: Iterable[Tensor], *, weight_decay: float) -> list[dict[str, Any]]:
    """Vectors, which are biases and norms, without decay."""
    by_decay: dict[float, list[Tensor]] = {}
    for each in parameters:
        by_decay.setdefault(0.0 if each.ndim <= 1 else weight_decay, []).append(each)
    return [{"params": params, "weight_decay": decay} for decay, params in by_decay.items()]


def build_schedule(
    config: Schedule, optimizer: torch.optim.Optimizer, *, learning_rate: float, num_steps: int
) -> LambdaLR:
    """The learning rate of step 0 is set at once; call `step()` after each optimiser step."""
    floor = config.min_learning_rate / learning_rate
    return LambdaLR(optimizer, lambda step: learning_rate_factor(config, step=step, num_steps=num_steps, floor=floor))


def learning_rate_factor(config: Schedule, *, step: int, num_steps: int, floor: float) -> float:
    """Share of the full learning rate at `step`; `floor` is that of `min_learning_rate`.

    Warm-up is (step + 1) / (w + 1) for w steps, above zero, since a step at zero is a step lost; of one_cycle half a
    cosine from 1/25, as in torch's OneCycleLR. Cosine, linear and one_cycle end at `floor`, and so does the cool-down.
    """
    num_warmup = round(config.warmup_fraction * num_steps)
    end = num_steps - round(config.cooldown_fraction * num_steps)
    if step > end:
        at_end = _main_factor(config, step=end, num_steps=num_steps, num_warmup=num_warmup, end=end, floor=floor)
        return at_end + (floor - at_end) * min(1.0, (step - end) / (num_steps - end))
    if config.kind != "one_cycle" and step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    return _main_factor(config, step=step, num_steps=num_steps, num_warmup=num_warmup, end=end, floor=floor)


def _main_factor(config: Schedule, *, step: int, num_steps: int, num_warmup: int, end: int, floor: float) -> float:
    """Between warm-up and cool-down."""
    progress = min(1.0, (step - num_warmup) / max(1, end - num_warmup))
    match config.kind:
        case "constant":
            return 1.0
        case "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 - (1 - floor) * progress
        case "step":
            return config.milestone_factor ** sum(step >= round(each * num_steps) for each in config.milestones)
        case "one_cycle":
            return _one_cycle_factor(step, num_warmup=num_warmup, end=end, floor=floor)
        case _:
            assert_never(config.kind)


def _one_cycle_factor(step: int, *, num_warmup: int, end: int, floor: float) -> float:
    """As torch's OneCycleLR, whose top is at step w - 1 and whose end is at the last step."""
    top, last = num_warmup - 1, end - 1
    if step < top:
        return _half_cosine(ONE_CYCLE_START, 1.0, step / top)
    return _half_cosine(1.0, floor, min(1.0, (step - top) / max(1, last - top)))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
