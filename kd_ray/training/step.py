"""One optimiser step."""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config.train import Precision
from kd_ray.training.balance import observe_losses
from kd_ray.training.batches import Batch
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.mutual import MutualLosses
from kd_ray.training.pieces import pieces_of
from kd_ray.training.sharding import is_sharded
from kd_ray.training.state import TrainingState

Loss = tuple[Tensor, dict[str, Tensor]]
"""The weighted sum, and each term by name (detached)."""

DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepper:
    """Takes one optimiser step for each batch.

    The batch goes through the network in `accumulate_batches` pieces, whose gradients are summed: those of the whole
    batch where no layer (BatchNorm) and no loss looks from one sample at another.
    """

    losses: WeightedLosses | MutualLosses
    gradient_clip: float | None
    precision: Precision = "float32"
    accumulate_batches: int = 1
    channels_last: bool = False

    def take(self, state: TrainingState, batch: Batch) -> Loss:
        """Change the weights of `state` once; the loss that the batch had before."""
        state.optimizer.zero_grad(set_to_none=True)
        total, terms = self._gradients(state, batch)
        if self.gradient_clip is not None:
            if state.scaler is not None:
                state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.network.parameters(), self.gradient_clip)
        if state.scaler is None:
            state.optimizer.step()
            state.schedule.step()
        else:
            _scaled_step(state, state.scaler)
        observe_losses(state.network, terms, self.losses.teacher_names)
        state.step += 1
        if state.average is not None:
            state.average.update()
        return total, terms

    def _gradients(self, state: TrainingState, batch: Batch) -> Loss:
        """Leave the batch's gradients at the weights; its loss."""
        pieces = pieces_of(batch, count=self.accumulate_batches)
        found, shares = [], []
        for number, piece in enumerate(pieces, start=1):
            share = piece.num_images / batch.num_images
            with _shared_among_workers(state.network, now=number == len(pieces)):
                total, terms = self._loss(state, piece)
                part = total if len(pieces) == 1 else share * total
                scaled = part if state.scaler is None else state.scaler.scale(part)
                scaled.backward()  # type: ignore[no-untyped-call]
            found.append((total.detach(), terms))
            shares.append(share)
        return weighted_mean(found, shares)

    def _loss(self, state: TrainingState, batch: Batch) -> Loss:
        """One forward pass over all parts, which DistributedDataParallel needs; the mean over all views."""
        network, step = state.network, state.step
        device = next(network.parameters()).device
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        inputs = [part.inputs_BCHW.to(device, non_blocking=True, memory_format=layout) for part in batch.parts]
        with self._autocast(device):
            outputs = network(inputs)
        found = []
        for part, part_outputs in zip(batch.parts, outputs, strict=True):
            targets = {key: value.to(device) for key, value in part.targets.items()}
            if self.precision != "float32":
                part_outputs = {name: each.float() for name, each in part_outputs.items()}  # noqa: PLW2901
            kept = {name: rows_B.to(device) for name, rows_B in self.losses.kept(part.sample_ids_B, step=step).items()}
            found.append(self.losses(part_outputs, part.labels.to(device), targets, kept=kept, step=step))
        num_views = sum(len(part) for part in batch.parts)
        return weighted_mean(found, [len(part) / num_views for part in batch.parts])

    def _autocast(self, device: torch.device) -> Any:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=DTYPES[self.precision])


def weighted_mean(found: list[Loss], shares: list[float]) -> Loss:
    """The mean of several losses, term by term; `shares` sum to 1."""
    if len(found) == 1:
        return found[0]
    total = torch.stack([share * loss for share, (loss, _) in zip(shares, found, strict=True)]).sum()
    terms = {
        name: torch.stack([share * each[name] for share, (_, each) in zip(shares, found, strict=True)]).sum()
        for name in found[0][1]
    }
    return total, terms


def _scaled_step(state: TrainingState, scaler: torch.amp.GradScaler) -> None:
    """Leave the weights as they are where a gradient has overflowed, and scale less from then on."""
    scaler.step(state.optimizer)
    scaler.update()
    with warnings.catch_warnings():
        # the first scale is often too great, and the first step left out
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        state.schedule.step()


def _shared_among_workers(network: nn.Module, *, now: bool) -> Any:
    """Gradients go to the other workers with the last piece of a batch."""
    if is_sharded(network):
        sharded: Any = network
        sharded.set_requires_gradient_sync(now)
        return nullcontext()
    if isinstance(network, nn.parallel.DistributedDataParallel) and not now:
        return network.no_sync()
    return nullcontext()
