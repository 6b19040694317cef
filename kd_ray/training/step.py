"""One optimiser step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_ray.training.batches import Batch
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.state import TrainingState

Loss = tuple[Tensor, dict[str, Tensor]]
"""The weighted sum, and each term by name (detached)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepper:
    """Takes one optimiser step for each batch."""

    losses: WeightedLosses
    gradient_clip: float | None

    def take(self, state: TrainingState, batch: Batch) -> Loss:
        """Change the weights of `state` once; the loss that the batch had before."""
        network = state.network
        total, terms = loss_of(network, batch, self.losses, next(network.parameters()).device)
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)
        state.optimizer.step()
        state.schedule.step()
        state.step += 1
        return total, terms


def loss_of(network: nn.Module, batch: Batch, losses: WeightedLosses, device: torch.device) -> Loss:
    """One forward pass over all parts, which DistributedDataParallel needs; each term is its mean over all views."""
    outputs = network([part.inputs_BCHW.to(device, non_blocking=True) for part in batch.parts])
    found = []
    for part, part_outputs in zip(batch.parts, outputs, strict=True):
        targets = {key: value.to(device) for key, value in part.targets.items()}
        found.append(losses(part_outputs, part.labels.to(device), targets))
    if len(found) == 1:
        return found[0]
    num_views = sum(len(part) for part in batch.parts)
    shares = [len(part) / num_views for part in batch.parts]
    total = torch.stack([share * loss for share, (loss, _) in zip(shares, found, strict=True)]).sum()
    terms = {
        name: torch.stack([share * each[name] for share, (_, each) in zip(shares, found, strict=True)]).sum()
        for name in found[0][1]
    }
    return total, terms
