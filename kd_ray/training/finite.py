"""Losses and weights that are not finite numbers: found at the very step, with the batch that did it.

Shape letters: B batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_ray.errors import TrainingError
from kd_ray.training.batches import Batch, Part
from kd_ray.training.sharding import local

NUM_NAMED = 64
WHAT_TO_DO = "Lower train.optimizer.learning_rate or set train.gradient_clip; the last checkpoint is kept."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noted:
    step: int
    is_finite: Tensor
    copied: torch.cuda.Event | None
    values: Mapping[str, Tensor]
    batch: Batch


@dataclass(slots=True)
class FiniteWatch:
    """Looks at the loss of every step; on a GPU one step later, when the number has come over by itself."""

    _noted: _Noted | None = field(default=None, init=False)

    def note(self, step: int, batch: Batch, total: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Start to look at the loss of `step`.

        Raises:
            TrainingError: the loss of the step before is not finite; on a CPU, that of this step.
        """
        self.look()
        is_finite = torch.isfinite(total.detach())
        copied = None
        if is_finite.is_cuda:
            is_finite = is_finite.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        values = {"loss": total.detach(), **terms}
        self._noted = _Noted(step=step, is_finite=is_finite, copied=copied, values=values, batch=batch)
        if copied is None:
            self.look()

    def look(self) -> None:
        """Raises TrainingError where the loss that was noted last is not finite."""
        noted, self._noted = self._noted, None
        if noted is None:
            return
        if noted.copied is not None:
            noted.copied.synchronize()
        if not noted.is_finite:
            raise TrainingError(_told(noted))


def require_finite_weights(network: nn.Module, *, step: int) -> None:
    """Before a checkpoint, which replaces a good one: a gradient may overflow where the loss does not.

    Raises:
        TrainingError: they are not.
    """
    bad = [name for name, each in network.named_parameters() if not torch.isfinite(local(each)).all()]
    if bad:
        raise TrainingError(
            f"{len(bad):,} of the student's weights are not finite after step {step}, {bad[0]} among them, though the "
            f"losses are: a gradient has overflowed. {WHAT_TO_DO}"
        )


def _told(noted: _Noted) -> str:
    values = {name: float(value) for name, value in noted.values.items()}
    loss = values.pop("loss")
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
    # the parts are the views of the same samples
    ids_B = np.unique(np.concatenate([part.sample_ids_B for part in noted.batch.parts]))
    told = f"the loss is {loss:g} at step {noted.step} ({terms}), of samples {_names(ids_B)}. "
    spoiled_B = np.concatenate([_spoiled(part) for part in noted.batch.parts])
    if len(spoiled_B):
        return f"{told}Inputs or targets of {_names(np.unique(spoiled_B))} are not finite. The last checkpoint is kept."
    return f"{told}{WHAT_TO_DO}"


def _spoiled(part: Part) -> NDArray[np.uint64]:
    """Sample ids of the views whose inputs or targets are not finite."""
    device = part.inputs_BCHW.device
    values = [part.inputs_BCHW, *(each.to(device) for each in part.targets.values())]
    found_B = torch.zeros(len(part), dtype=torch.bool, device=device)
    for each in values:
        if isinstance(each, Tensor):
            found_B |= ~torch.isfinite(each).flatten(1).all(dim=1)
    spoiled: NDArray[np.uint64] = part.sample_ids_B[found_B.cpu().numpy()]
    return spoiled


def _names(ids: Iterable[int]) -> str:
    names = [f"{int(each):016x}" for each in ids]
    more = f" and {len(names) - NUM_NAMED:,} more" if len(names) > NUM_NAMED else ""
    return f"{', '.join(names[:NUM_NAMED])}{more}"
