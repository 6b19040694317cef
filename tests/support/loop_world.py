"""The training loop on a network and batches of its own: no images, no cache, milliseconds a run."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from kd_ray.config.losses import CrossEntropyLoss, KdLoss
from kd_ray.config.optim import Optimizer
from kd_ray.training.averaging import Shelf
from kd_ray.training.batches import Batch, Part
from kd_ray.training.fit import FitResult, Metrics, State, fit
from kd_ray.training.job import encode_state
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.weighted import WeightedLosses
from tests.support.tiny_world import fit_settings

BATCH_SIZE, NUM_CLASSES, NUM_PIXELS = 8, 3, 5
LOSSES = WeightedLosses(
    losses=(CrossEntropyLoss(kind="cross_entropy", label_smoothing=0.1), KdLoss(kind="kd", temperature=2.0)),
    teachers=(None, "teacher"),
)
# What a clock has measured, and no two runs share.
TIMED = {"images_per_s_per_worker", "data_wait"}


class Network(nn.Module):
    """Has all that a state must keep: weights, buffers (batch norm) and the random numbers of dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * NUM_PIXELS, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, NUM_CLASSES)
        )

    def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"logits": self.layers(x_BCHW.flatten(1))} for x_BCHW in x]


class Plain(nn.Module):
    """Looks at each sample by itself: no batch norm, no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * NUM_PIXELS, 16), nn.ReLU(), nn.Linear(16, NUM_CLASSES))

    def forward(self, x: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"logits": self.layers(x_BCHW.flatten(1))} for x_BCHW in x]


class Watching:
    """Notes at which steps it was called; keeps each state as the bytes that would be stored.

    Evaluations give `scores` in turn, the step over 100 where there are none.
    """

    def __init__(self, network: nn.Module | None = None, *, scores: Sequence[float] = ()) -> None:
        self._scores = iter(scores)
        self.logged: list[int] = []
        self.evaluated: list[int] = []
        self.states: dict[int, bytes] = {}
        self._network = network

    def log(self, step: int, metrics: Metrics) -> None:
        self.logged.append(step)

    def evaluate(self, step: int) -> Metrics:
        self.evaluated.append(step)
        if self._network is not None:
            self._network.eval()
        return {"test_top1": next(self._scores, step / 100)}

    def checkpoint(self, state: State) -> None:
        self.states[state["step"]] = encode_state(state)


def new_network() -> Network:
    """The same one every time."""
    torch.manual_seed(0)
    return Network()


def batches(first_step: int = 0, *, spoiled_step: int | None = None) -> Iterator[Batch]:
    """Each step's batch is a function of its number; the inputs of `spoiled_step` (from 1) are NaN."""
    for step in count(first_step):
        random = np.random.default_rng(step)
        inputs = torch.from_numpy(random.normal(size=(BATCH_SIZE, 3, 1, NUM_PIXELS)).astype(np.float32))
        part = Part(
            inputs_BCHW=inputs * torch.nan if step + 1 == spoiled_step else inputs,
            labels=Labels.unmixed(torch.from_numpy(random.integers(-1, NUM_CLASSES, BATCH_SIZE))),
            targets={("teacher", "logits"): torch.from_numpy(random.normal(size=(BATCH_SIZE, NUM_CLASSES))).float()},
            sample_ids_B=np.arange(BATCH_SIZE, dtype=np.uint64),
            view_indices_B=np.zeros(BATCH_SIZE, np.int64),
        )
        yield Batch(parts=(part,), num_images=BATCH_SIZE)


def run(
    network: nn.Module,
    hooks: Watching,
    stream: Iterator[Batch],
    *,
    resume: State | None = None,
    shelf: Shelf | None = None,
    **changes,
) -> FitResult:
    """Twelve steps unless told otherwise."""
    settings = fit_settings(**{"num_steps": 12, "optimizer": Optimizer(learning_rate=0.01), **changes})
    return fit(network, stream, LOSSES, settings=settings, hooks=hooks, resume=resume, shelf=shelf)


def untimed(history: list[Metrics]) -> list[Metrics]:
    """Without what a clock has measured."""
    return [{key: value for key, value in entry.items() if key not in TIMED} for entry in history]
