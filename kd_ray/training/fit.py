"""The training loop: batches in, a trained student out. It knows neither Ray nor the cache."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from kd_ray.config.loop import EarlyStopping, Ema
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.config.train import Parallel, Precision
from kd_ray.training.averaging import EMA_SUFFIX, Shelf, best_steps, mean_weights, with_weights
from kd_ray.training.batches import Batch
from kd_ray.training.finite import FiniteWatch, require_finite_weights
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.mutual import MutualLosses
from kd_ray.training.sharding import whole
from kd_ray.training.state import State, TrainingState, bare, samples_consumed
from kd_ray.training.step import Stepper
from kd_ray.training.stopping import is_stale, judged_by
from kd_ray.training.window import Metrics, Window
from kd_ray.training.workers import any_worker, is_first, wait_for_all

__all__ = ["FitResult", "FitSettings", "Hooks", "Metrics", "State", "fit", "samples_consumed"]

LAST, EMA, BEST = "last", "ema", "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long, how fast, and how often to look up; what has a default is off with it."""

    num_steps: int
    optimizer: Optimizer
    schedule: Schedule
    gradient_clip: float | None
    log_every_steps: int
    evaluate_every_steps: int
    checkpoint_every_steps: int
    precision: Precision = "float32"
    accumulate_batches: int = 1
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    deterministic: bool = False
    parallel: Parallel = "ddp"
    ema: Ema | None = None
    average_best: int | None = None
    early_stopping: EarlyStopping | None = None
    max_time_s: float | None = None


class Hooks(Protocol):
    """What the loop tells the world; called on every worker at the same steps."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Loss terms and speed since the last call."""

    def evaluate(self, step: int) -> Metrics:
        """Measure the student as its weights are; the result goes to the history."""

    def checkpoint(self, state: State) -> None:
        """Keep `state`; restoring it continues the run exactly."""


@dataclass(slots=True, kw_only=True)
class FitResult:
    """What a finished loop leaves.

    `weights` are whole ones of the bare network by name: those of the last step, and the average where one was made;
    `exported` is the name of those that count. `stopped` says why the run has ended before its last step, and
    `best_steps` of which evaluations an average was made.
    """

    history: list[Metrics]
    seconds: float
    data_wait_s: float
    num_steps: int
    weights: Mapping[str, Mapping[str, Tensor]]
    exported: str
    stopped: str | None
    best_steps: tuple[int, ...] = ()
    num_rounded: int = 0
    """Checked views that differ from the teacher's by the rounding of another decoder."""


def fit(
    network: nn.Module,
    batches: Iterator[Batch],
    losses: WeightedLosses | MutualLosses,
    *,
    settings: FitSettings,
    hooks: Hooks,
    resume: State | None,
    shelf: Shelf | None = None,
    on_entry: Callable[[Metrics], None] = lambda _entry: None,
) -> FitResult:
    """Train `network` (bare, wrapped for data parallelism, or sharded) for the steps of `settings` that `resume` has
    not seen.

    It is called with a list of the inputs [B, C, H, W] of every part of a batch, and gives as many mappings of outputs.
    `batches` starts where `resume` stopped. `shelf` is needed where `average_best` is asked. `on_entry` is told of
    every entry of the history when it is made.

    Raises:
        TrainingError: the loss is not finite; the step and its samples are named.
    """
    losses = losses.for_run(settings.num_steps)
    state = TrainingState.build(
        network,
        settings.optimizer,
        settings.schedule,
        num_steps=settings.num_steps,
        precision=settings.precision,
        ema=settings.ema,
        queues=losses.queues,
    )
    if resume is not None:
        state.restore(resume)
    stepper = Stepper(
        losses=losses,
        gradient_clip=settings.gradient_clip,
        precision=settings.precision,
        accumulate_batches=settings.accumulate_batches,
        channels_last=settings.channels_last,
    )
    loop = _Loop(settings=settings, hooks=hooks, state=state, shelf=shelf, on_entry=on_entry)
    network.train()
    while state.stopped is None and state.step < settings.num_steps:
        before_s = time.perf_counter()
        batch = next(batches)
        wait_s = time.perf_counter() - before_s
        state.data_wait_s += wait_s
        total, terms = stepper.take(state, batch)
        loop.watch.note(state.step, batch, total, terms)
        state.window.add(total, terms, samples=batch.num_images, wait_s=wait_s)
        loop.look_up()
    return loop.result()


@dataclass(slots=True, kw_only=True)
class _Loop:
    """What happens between the steps."""

    settings: FitSettings
    hooks: Hooks
    state: TrainingState
    shelf: Shelf | None
    on_entry: Callable[[Metrics], None]
    watch: FiniteWatch = field(default_factory=FiniteWatch)

    def look_up(self) -> None:
        """Log, evaluate, checkpoint and stop where it is time."""
        state, settings, step = self.state, self.settings, self.state.step
        logs = step % settings.log_every_steps == 0
        if logs and self._is_out_of_time():
            state.stopped = f"train.max_time was reached at step {step}"
        ends = step == settings.num_steps or state.stopped is not None
        if logs or ends:
            self._log()
        if step % settings.evaluate_every_steps == 0 or ends:
            self._evaluate()
        if state.stopped is not None and state.window.steps:
            self._log()
        is_due = step % settings.checkpoint_every_steps == 0 and step < settings.num_steps
        if is_due or state.stopped is not None:
            self._checkpoint()

    def _log(self) -> None:
        self.watch.look()
        metrics = self.state.window.metrics(self.state.learning_rate)
        self.hooks.log(self.state.step, metrics)
        self._note({"step": self.state.step, **metrics})
        self.state.window = Window()

    def _evaluate(self) -> None:
        self.watch.look()
        state, settings = self.state, self.settings
        found = dict(self.hooks.evaluate(state.step))
        if state.average is not None:
            with with_weights(bare(state.network), state.average.tensors):
                of_average = self.hooks.evaluate(state.step)
            found |= {f"{name}{EMA_SUFFIX}": value for name, value in of_average.items()}
        self._note({"step": state.step, **found})
        state.network.train()
        if settings.average_best is not None and state.step in self._best_steps():
            weights = state.whole_weights()
            if is_first():
                self._shelf.put(state.step, weights)
        stopping = settings.early_stopping
        if stopping is None or state.stopped is not None or state.step == settings.num_steps:
            return
        if is_stale(state.history, self._metric, stopping):
            since = f"the last {stopping.patience} evaluations before step {state.step}"
            state.stopped = f"train.early_stopping: {self._metric} has not risen in {since}"

    def _checkpoint(self) -> None:
        self.watch.look()
        require_finite_weights(self.state.network, step=self.state.step)
        self.hooks.checkpoint(self.state.to_checkpoint())
        # not before: a run that goes on from the checkpoint before this one may still want what that one names
        if self.settings.average_best is not None and is_first():
            self._shelf.prune(self._best_steps())

    def result(self) -> FitResult:
        """After the last step: the weights, and the mean of the best ones measured."""
        state, settings = self.state, self.settings
        weights = {LAST: state.whole_weights()}
        exported = LAST
        if state.average is not None:
            weights[EMA], exported = whole(state.average.tensors), EMA
        if settings.average_best is not None:
            weights[BEST], exported = self._mean_of_best(), BEST
        return FitResult(
            history=state.history,
            seconds=state.seconds,
            data_wait_s=state.data_wait_s,
            num_steps=state.step,
            weights={
                name: {key: each.detach().cpu().clone() for key, each in of.items()} for name, of in weights.items()
            },
            exported=exported,
            stopped=state.stopped,
            best_steps=() if settings.average_best is None else tuple(self._best_steps()),
        )

    def _mean_of_best(self) -> dict[str, Tensor]:
        wait_for_all(self._device)  # for what the first worker has put
        mean = mean_weights(self._shelf, self._best_steps())
        network = bare(self.state.network)
        on_device = {name: each.to(self._device) for name, each in mean.items()}
        with with_weights(network, on_device):
            found = self.hooks.evaluate(self.state.step)
        self._note({"step": self.state.step, **{f"{name}_best": value for name, value in found.items()}})
        return mean

    def _note(self, entry: Metrics) -> None:
        self.state.history.append(entry)
        self.on_entry(entry)

    def _is_out_of_time(self) -> bool:
        limit_s = self.settings.max_time_s
        return limit_s is not None and any_worker(self.state.seconds >= limit_s, self._device)

    def _best_steps(self) -> list[int]:
        assert self.settings.average_best is not None
        return best_steps(self.state.history, self._metric, count=self.settings.average_best)

    @property
    def _metric(self) -> str:
        return judged_by(self.state.history, suffix=EMA_SUFFIX if self.state.average is not None else "")

    @property
    def _shelf(self) -> Shelf:
        assert self.shelf is not None, "average_best needs a place for weights"
        return self.shelf

    @property
    def _device(self) -> torch.device:
        return next(self.state.network.parameters()).device
