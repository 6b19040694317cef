"""The training loop: batches in, a trained student out. It knows neither Ray nor the cache."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.training.batches import Batch
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.state import State, TrainingState, samples_consumed
from kd_ray.training.step import Stepper
from kd_ray.training.window import Metrics, Window

__all__ = ["FitResult", "FitSettings", "Hooks", "Metrics", "State", "fit", "samples_consumed"]


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
    state = TrainingState.build(network, settings.optimizer, settings.schedule, num_steps=settings.num_steps)
    if resume is not None:
        state.restore(resume)
    stepper = Stepper(losses=losses, gradient_clip=settings.gradient_clip)
    network.train()
    while state.step < settings.num_steps:
        before_s = time.perf_counter()
        batch = next(batches)
        wait_s = time.perf_counter() - before_s
        state.data_wait_s += wait_s
        total, terms = stepper.take(state, batch)
        state.window.add(total, terms, samples=batch.num_images, wait_s=wait_s)
        _look_up(state, settings, hooks)
    return FitResult(history=state.history, seconds=state.seconds, data_wait_s=state.data_wait_s)


def _look_up(state: TrainingState, settings: FitSettings, hooks: Hooks) -> None:
    """Log, evaluate and checkpoint where it is time."""
    step, is_last = state.step, state.step == settings.num_steps
    if step % settings.log_every_steps == 0 or is_last:
        state.window.require_finite(step)
        metrics = state.window.metrics(state.learning_rate)
        hooks.log(step, metrics)
        state.history.append({"step": step, **metrics})
        state.window = Window()
    if step % settings.evaluate_every_steps == 0 or is_last:
        state.history.append({"step": step, **hooks.evaluate(step)})
        state.network.train()
    if step % settings.checkpoint_every_steps == 0 and not is_last:
        # between two logs: a checkpoint after a loss that is not finite would replace the last good one
        state.window.require_finite(step)
        hooks.checkpoint(state.to_checkpoint())
