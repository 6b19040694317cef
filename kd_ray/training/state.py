"""What a checkpoint holds, and all that changes while a network is trained."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config.loop import Ema
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.config.train import Precision
from kd_ray.models.optim import build_optimizer, build_schedule
from kd_ray.training.averaging import MovingAverage
from kd_ray.training.losses.contrastive import Queues
from kd_ray.training.sharding import load_optimizer, load_weights, whole
from kd_ray.training.window import Metrics, Window

State = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """The network, what changes it, how far it is, and what has been seen on the way.

    `scaler` is that of float16, and `average` follows the weights where that is asked. `queues` are
    those of the contrastive losses. `started_s` is when the run
    would have started if all of it had been done by this process. `stopped` says why it has ended before its last step.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    average: MovingAverage | None
    queues: Queues
    step: int = 0
    history: list[Metrics] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    data_wait_s: float = 0.0
    stopped: str | None = None
    started_s: float = field(default_factory=time.perf_counter)

    @classmethod
    def build(
        cls,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        num_steps: int,
        precision: Precision,
        ema: Ema | None,
        queues: Queues,
    ) -> "TrainingState":
        """That of a run which has not begun."""
        built = build_optimizer(optimizer, bare(network))
        device = next(network.parameters()).device
        return cls(
            network=network,
            optimizer=built,
            schedule=build_schedule(schedule, built, learning_rate=optimizer.learning_rate, num_steps=num_steps),
            scaler=torch.amp.GradScaler(device.type) if precision == "float16" else None,
            average=MovingAverage(ema, bare(network)) if ema is not None else None,
            queues=queues,
        )

    @property
    def seconds(self) -> float:
        """What the run has taken, with its earlier tries."""
        return time.perf_counter() - self.started_s

    @property
    def learning_rate(self) -> float:
        """That of the next step; with layer decay, of the last layers."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def to_checkpoint(self) -> State:
        """Tensors and plain values; a run that restores them goes on exactly. All workers call this together."""
        optional: State = {}
        if self.scaler is not None:
            optional["scaler"] = self.scaler.state_dict()
        if self.average is not None:
            optional["ema"] = {"tensors": whole(self.average.tensors), "num_updates": self.average.num_updates}
        if self.queues.tensors:
            optional["queues"] = dict(self.queues.tensors)
        if self.stopped is not None:
            optional["stopped"] = self.stopped
        return {
            "step": self.step,
            "history": self.history,
            "window": self.window.state(),
            "network": self.whole_weights(),
            "optimizer": whole(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "seconds": self.seconds,
            "data_wait_s": self.data_wait_s,
            **optional,
        }

    def whole_weights(self) -> dict[str, Tensor]:
        """Of the bare network; all workers call this together."""
        found: dict[str, Tensor] = whole(dict(bare(self.network).state_dict()))
        return found

    def restore(self, saved: State) -> None:
        """Go on where `saved` was taken, the process's random numbers included."""
        load_weights(bare(self.network), saved["network"])
        load_optimizer(self.optimizer, saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["torch_rng"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load(saved["ema"]["tensors"], num_updates=saved["ema"]["num_updates"])
        self.queues.tensors = dict(saved.get("queues", {}))
        self.stopped = saved.get("stopped")
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
