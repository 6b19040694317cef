"""What a checkpoint holds, and all that changes while a network is trained."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.models.optim import build_optimizer, build_schedule
from kd_ray.training.window import Metrics, Window

State = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """The network, what changes it, how far it is, and what has been seen on the way.

    `started_s` is when the run would have started if all of it had been done by this process.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    step: int = 0
    history: list[Metrics] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    data_wait_s: float = 0.0
    started_s: float = field(default_factory=time.perf_counter)

    @classmethod
    def build(cls, network: nn.Module, optimizer: Optimizer, schedule: Schedule, *, num_steps: int) -> "TrainingState":
        """That of a run which has not begun."""
        built = build_optimizer(optimizer, bare(network))
        return cls(network=network, optimizer=built, schedule=build_schedule(schedule, built, num_steps=num_steps))

    @property
    def seconds(self) -> float:
        """What the run has taken, with its earlier tries."""
        return time.perf_counter() - self.started_s

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def to_checkpoint(self) -> State:
        """Tensors and plain values; a run that restores them goes on exactly."""
        return {
            "step": self.step,
            "history": self.history,
            "window": self.window.state(),
            "network": bare(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "seconds": self.seconds,
            "data_wait_s": self.data_wait_s,
        }

    def restore(self, saved: State) -> None:
        """Go on where `saved` was taken, the process's random numbers included."""
        bare(self.network).load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["torch_rng"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        self.step = int(saved["step"])
        self.history = list(saved["history"])
        self.window = Window(**saved["window"])
        self.data_wait_s = saved["data_wait_s"]
        self.started_s = time.perf_counter() - saved["seconds"]


def samples_consumed(state: State | None, *, samples_per_step: int) -> int:
    """How many samples the run of `state` has taken from its stream."""
    return 0 if state is None else int(state["step"]) * samples_per_step


def bare(network: nn.Module) -> nn.Module:
    """The network itself, without what wraps it for data parallelism."""
    wrapped = getattr(network, "module", None)
    return wrapped if isinstance(network, nn.parallel.DistributedDataParallel) and wrapped is not None else network
