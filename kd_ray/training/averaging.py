"""Averages of weights: an exponential moving one over the steps, and the mean of the best evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from kd_ray.config.loop import Ema
from kd_ray.storage import Storage
from kd_ray.training.sharding import Tensors, like
from kd_ray.training.window import Metrics

EMA_SUFFIX = "_ema"
SUFFIX = ".safetensors"


class MovingAverage:
    """The average of a network's weights; buffers (statistics of BatchNorm) are averaged too, counts are copied."""

    def __init__(self, config: Ema, network: nn.Module) -> None:
        self._config = config
        self._network = network
        self.num_updates = 0
        self.tensors = {name: each.detach().clone() for name, each in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        decay = self._config.decay
        if self._config.warmup:
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, each in self._network.state_dict().items():
            if each.is_floating_point():
                self.tensors[name].lerp_(each, 1 - decay)
            else:
                self.tensors[name].copy_(each)

    def load(self, tensors: Tensors, *, num_updates: int) -> None:
        """Go on from whole tensors."""
        self.num_updates = num_updates
        for name, each in self.tensors.items():
            each.copy_(like(tensors[name], each))


@contextmanager
def with_weights(network: nn.Module, tensors: Tensors) -> Iterator[None]:
    """A block in which `network` has these weights; its own come back afterwards."""
    with torch.no_grad():
        own = network.state_dict()
        kept = {name: each.clone() for name, each in own.items()}
        _copy(tensors, own)
        try:
            yield
        finally:
            _copy(kept, own)


def _copy(tensors: Tensors, into: Tensors) -> None:
    for name, each in into.items():
        each.copy_(like(tensors[name], each) if type(tensors[name]) is Tensor else tensors[name])


class Shelf(Protocol):
    """Where weights of evaluated steps are kept."""

    def put(self, step: int, tensors: Tensors) -> None:
        """Keep the weights after `step`."""

    def get(self, step: int) -> Tensors:
        """What was put for `step`."""

    def prune(self, keep: Sequence[int]) -> None:
        """Drop all but the weights of these steps."""


class StoredShelf:
    """Weights as safetensors files on storage, a file for each step."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def put(self, step: int, tensors: Tensors) -> None:
        """Keep the weights after `step`."""
        whole = {
            name: each.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
            for name, each in tensors.items()
        }
        self._storage.write(f"{step}{SUFFIX}", safetensors.torch.save(whole))

    def get(self, step: int) -> Tensors:
        """What was put for `step`."""
        return safetensors.torch.load(self._storage.read(f"{step}{SUFFIX}"))

    def prune(self, keep: Sequence[int]) -> None:
        """Drop all but the weights of these steps."""
        kept = {f"{step}{SUFFIX}" for step in keep}
        for name in [each for each in self._storage.list("") if each not in kept]:
            self._storage.remove(name)


def best_steps(history: Sequence[Metrics], metric: str, *, count: int) -> list[int]:
    """The steps of the `count` greatest values of `metric`; of equal ones the later."""
    found = sorted(((each[metric], int(each["step"])) for each in history if metric in each), reverse=True)
    return sorted(step for _, step in found[:count])


def mean_weights(shelf: Shelf, steps: Sequence[int]) -> dict[str, Tensor]:
    """The mean of the weights of `steps` in float64, rounded to their own type; counts are those of the last."""
    total: dict[str, Tensor] = {}
    last: Mapping[str, Tensor] = {}
    for step in steps:
        last = shelf.get(step)
        for name, each in last.items():
            total[name] = total[name] + each.double() if name in total else each.double()
    return {
        name: (total[name] / len(steps)).to(each.dtype) if each.is_floating_point() else each
        for name, each in last.items()
    }
