"""Optimiser and learning-rate schedule."""

import math
from typing import assert_never

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from kd_ray.config.optim import Optimizer, Schedule


def build_optimizer(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser over the trainable parameters; biases, norms and `module.no_weight_decay()` are not decayed.

    Give the module itself, not its DistributedDataParallel wrapper, which hides `no_weight_decay`.
    """
    import timm.optim  # 4 s, torchvision included: only where something is trained

    optimizer = timm.optim.create_optimizer_v2(  # type: ignore[attr-defined]
        module,
        # timm's "sgd" is Nesterov's, which needs momentum
        opt="momentum" if config.kind == "sgd" and config.momentum == 0 else config.kind,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        filter_bias_and_bn=True,
    )
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def build_schedule(config: Schedule, optimizer: torch.optim.Optimizer, *, num_steps: int) -> LambdaLR:
    """The learning rate of step 0 is set at once; call `step()` after each optimiser step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(config, step=step, num_steps=num_steps))


def learning_rate_factor(config: Schedule, *, step: int, num_steps: int) -> float:
    """Share of the full learning rate at `step`: (step + 1) / (w + 1) for w warm-up steps, then cosine or constant.

    Warm-up starts above zero, since a step at zero is a step lost; cosine reaches zero at `num_steps`.
    """
    num_warmup = round(config.warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    match config.kind:
        case "constant":
            return 1.0
        case "cosine":
            progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
            return 0.5 * (1 + math.cos(math.pi * progress))
        case _:
            assert_never(config.kind)
