"""The training loop: batches in, a trained student out. It knows neither Ray nor the cache."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.errors import TrainingError
from kd_ray.models.optim import build_optimizer, build_schedule
from kd_ray.training.batches import Batch
from kd_ray.training.losses.weighted import WeightedLosses

Metrics = dict[str, float]
State = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long, how fast, and how often to look up."""

    num_steps: int
    optimizer: Optimizer
    schedule: Schedule
    gradient_clip: float | None
    log_every_steps: int
    evaluate_every_steps: int
    checkpoint_every_steps: int


class Hooks(Protocol):
    """What the loop tells the world; called on every worker at the same steps."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Loss terms and speed since the last call."""

    def evaluate(self, step: int) -> Metrics:
        """Measure the student; the result goes to the history."""

    def checkpoint(self, state: State) -> None:
        """Keep `state`; restoring it continues the run exactly."""


@dataclass(slots=True, kw_only=True)
class FitResult:
    """What a finished loop leaves besides the weights."""

    history: list[Metrics]
    seconds: float
    data_wait_s: float
    num_rounded: int = 0
    """Checked views that differ from the teacher's by the rounding of another decoder."""


@dataclass(slots=True, kw_only=True)
class _Window:
    """Loss terms and times since the last log."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    wait_s: float = 0.0
    start_s: float = field(default_factory=time.perf_counter)

    def add(self, total: Tensor, terms: Mapping[str, Tensor], *, samples: int, wait_s: float) -> None:
        for name, value in {"loss": total.detach(), **terms}.items():
            self.terms[name] = self.terms[name] + value if name in self.terms else value
        self.steps += 1
        self.samples += samples
        self.wait_s += wait_s

    def metrics(self, learning_rate: float) -> Metrics:
        elapsed_s = time.perf_counter() - self.start_s
        means = {name: float(value) / self.steps for name, value in self.terms.items()}
        speed = {"images_per_s_per_worker": self.samples / elapsed_s, "data_wait": self.wait_s / elapsed_s}
        return {**means, **speed, "learning_rate": learning_rate}

    def require_finite(self, step: int) -> None:
        loss = float(self.terms["loss"]) / self.steps if self.steps else 0.0
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at or shortly before step {step}. Lower train.optimizer.learning_rate or set "
                "train.gradient_clip; the last checkpoint is kept."
            )


def fit(
    network: nn.Module,
    batches: Iterator[Batch],
    losses: WeightedLosses,
    *,
    settings: FitSettings,
    hooks: Hooks,
    resume: State | None,
) -> FitResult:
    """Train `network` (bare, or wrapped for data parallelism) for the steps of `settings` that `resume` has not seen.

    It is called with a list of the inputs [B, C, H, W] of every part of a batch, and gives as many mappings of outputs.
    `batches` starts where `resume` stopped.

    Raises:
        TrainingError: the loss is not finite; the step is named.
    """
    device = next(network.parameters()).device
    optimizer = build_optimizer(settings.optimizer, _bare(network))
    schedule = build_schedule(settings.schedule, optimizer, num_steps=settings.num_steps)
    step, history, window = _restore(resume, network, optimizer, schedule)
    # A resumed run has taken the seconds of its earlier tries too.
    started_s = time.perf_counter() - (resume["seconds"] if resume else 0.0)
    waited_s = resume["data_wait_s"] if resume else 0.0
    network.train()
    while step < settings.num_steps:
        before_s = time.perf_counter()
        batch = next(batches)
        wait_s = time.perf_counter() - before_s
        waited_s += wait_s
        total, terms = _loss_of(network, batch, losses, device)
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        step += 1
        window.add(total, terms, samples=batch.num_images, wait_s=wait_s)
        if step % settings.log_every_steps == 0 or step == settings.num_steps:
            window.require_finite(step)
            metrics = window.metrics(optimizer.param_groups[0]["lr"])
            hooks.log(step, metrics)
            history.append({"step": step, **metrics})
            window = _Window()
        if step % settings.evaluate_every_steps == 0 or step == settings.num_steps:
            history.append({"step": step, **hooks.evaluate(step)})
            network.train()
        if step % settings.checkpoint_every_steps == 0 and step < settings.num_steps:
            # between two logs: a checkpoint after a loss that is not finite would replace the last good one
            window.require_finite(step)
            seconds = time.perf_counter() - started_s
            hooks.checkpoint(
                _state(step, history, window, network, optimizer, schedule, seconds=seconds, data_wait_s=waited_s)
            )
    return FitResult(history=history, seconds=time.perf_counter() - started_s, data_wait_s=waited_s)


def samples_consumed(state: State | None, *, samples_per_step: int) -> int:
    """How many samples the run of `state` has taken from its stream."""
    return 0 if state is None else int(state["step"]) * samples_per_step


def _loss_of(
    network: nn.Module, batch: Batch, losses: WeightedLosses, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
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


def _state(
    step: int,
    history: list[Metrics],
    window: _Window,
    network: nn.Module,
    optimizer: Any,
    schedule: Any,
    *,
    seconds: float,
    data_wait_s: float,
) -> State:
    return {
        "step": step,
        "history": history,
        "window": {"terms": dict(window.terms), "steps": window.steps},
        "network": _bare(network).state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "seconds": seconds,
        "data_wait_s": data_wait_s,
    }


def _restore(
    resume: State | None, network: nn.Module, optimizer: Any, schedule: Any
) -> tuple[int, list[Metrics], _Window]:
    if resume is None:
        return 0, [], _Window()
    _bare(network).load_state_dict(resume["network"])
    optimizer.load_state_dict(resume["optimizer"])
    schedule.load_state_dict(resume["schedule"])
    torch.set_rng_state(resume["torch_rng"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(resume["cuda_rng"])
    return int(resume["step"]), list(resume["history"]), _Window(**resume["window"])


def _bare(network: nn.Module) -> nn.Module:
    wrapped = getattr(network, "module", None)
    return wrapped if isinstance(network, nn.parallel.DistributedDataParallel) and wrapped is not None else network
