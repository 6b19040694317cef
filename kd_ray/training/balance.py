"""Several teachers at once: what each one's losses count, learnt or measured.

Shape letters: T teachers, in the order of their names.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

import torch
import torch.distributed
from torch import Tensor, nn

Balance = Literal["fixed", "uncertainty", "ema"]

LOG_VARIANCES, LOSS_SCALES = "log_variances", "loss_scales"
EMA_DECAY = 0.99
MIN_SCALE = 1e-8


class LogVariances(nn.Module):
    """A learnt s [T] for each teacher, whose losses L then count exp(-s) L + s / 2 (Kendall et al. 2018, equation 10
    with s = log σ²); all begin at 0, that is with the weights of the recipe.
    """

    def __init__(self, num_teachers: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(num_teachers))

    def forward(self) -> dict[str, Tensor]:
        return {LOG_VARIANCES: self.log_variances}


class LossScales(nn.Module):
    """The running mean [T] of each teacher's losses over the steps so far, by which they are divided.

    It forgets with EMA_DECAY, free of bias at the beginning (as Adam's moments are); 1 before the first step.
    """

    def __init__(self, num_teachers: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_teachers))
        self.register_buffer("num_steps", torch.zeros(()))
        self.means: Tensor
        self.num_steps: Tensor

    def forward(self) -> dict[str, Tensor]:
        # num_steps stays on the device: reading it here would wait for the device at every step
        share = 1.0 - EMA_DECAY**self.num_steps
        begun = self.means / share.clamp_min(1.0 - EMA_DECAY)
        return {LOSS_SCALES: torch.where(self.num_steps > 0, begun, torch.ones_like(begun)).clamp_min(MIN_SCALE)}

    @torch.no_grad()
    def observe(self, losses_T: Tensor) -> None:
        """Take in the losses of one step, the mean of all workers'."""
        losses_T = losses_T.to(self.means)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(losses_T)
            losses_T = losses_T / torch.distributed.get_world_size()
        self.means.mul_(EMA_DECAY).add_(losses_T, alpha=1.0 - EMA_DECAY)
        self.num_steps.add_(1)


def build_balance(balance: Balance, *, num_teachers: int) -> nn.Module | None:
    """What a network keeps beside its weights, so that it is optimised, checkpointed and shared with them."""
    match balance:
        case "fixed":
            return None
        case "uncertainty":
            return LogVariances(num_teachers)
        case "ema":
            return LossScales(num_teachers)
        case _:
            assert_never(balance)


def factors_of(outputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """By what each teacher's losses are multiplied, of a network's outputs; nothing with fixed weights."""
    if LOG_VARIANCES in outputs:
        factors_T = torch.exp(-outputs[LOG_VARIANCES].float())
    elif LOSS_SCALES in outputs:
        factors_T = 1.0 / outputs[LOSS_SCALES].float()
    else:
        return {}
    return dict(zip(names, factors_T, strict=True))


def penalty_of(outputs: Mapping[str, Tensor]) -> Tensor | None:
    """What keeps learnt variances from growing for ever; None where nothing is learnt."""
    return 0.5 * outputs[LOG_VARIANCES].float().sum() if LOG_VARIANCES in outputs else None


def observe_losses(network: nn.Module, terms: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Let the running means of `network`, where it has any, take in the terms of one step."""
    for module in network.modules():
        if isinstance(module, LossScales):
            module.observe(torch.stack([terms[teacher_term(name)] for name in names]))


def teacher_term(name: str) -> str:
    """What the sum of a teacher's weighted losses is called in a history."""
    return f"teacher/{name}"


def factor_term(name: str) -> str:
    """What a teacher's factor is called in a history."""
    return f"teacher_factor/{name}"
