"""Two processes that train one tiny student together over gloo, without Ray."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from kd_ray.config.heads import LinearHead
from kd_ray.config.losses import FeatureLoss
from kd_ray.config.models import TimmModel
from kd_ray.config.optim import Optimizer
from kd_ray.models import build_model
from kd_ray.students.heads import build_head
from kd_ray.students.student import Source, StudentModel
from kd_ray.training.batches import Batch, Part
from kd_ray.training.fit import FitResult, FitSettings, Metrics, State, fit
from kd_ray.training.job import decode_state, encode_state
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.prepare import prepare
from tests.support.tiny_world import fit_settings

NUM_WORKERS, SHARE, SIZE_PX, NUM_CLASSES, WIDTH = 2, 4, 32, 3, 5
NUM_STEPS, CHECKPOINT = 6, 3
CPU = torch.device("cpu")
LOSSES = WeightedLosses(
    losses=(FeatureLoss(kind="feature", output="summary", head=LinearHead(kind="linear")),), teachers=("teacher",)
)


@dataclass(slots=True)
class _Keeping:
    states: dict[int, bytes] = field(default_factory=dict)

    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None:
        self.states[state["step"]] = encode_state(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The mean loss of every step, and the last weights by name."""

    losses: list[float]
    weights: Mapping[str, Tensor]


def train_on_two(folder: Path, runs: Mapping[str, tuple[FitSettings, str | None]]) -> dict[str, Told]:
    """By name what each of `runs` has given, one after another in the same two processes.

    A run has its settings, and where it goes on from the checkpoint in the middle of an earlier one, the name of that.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_work, args=(port, folder, runs), nprocs=NUM_WORKERS)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(NUM_WORKERS)]
    for name in runs:
        first, second = (each[name]["weights"] for each in found)
        assert all(torch.equal(first[key], value) for key, value in second.items())
    return {
        name: Told(
            losses=np.mean([each[name]["losses"] for each in found], axis=0).tolist(), weights=found[0][name]["weights"]
        )
        for name in runs
    }


def settings(**changes: Any) -> FitSettings:
    """Some steps with a checkpoint in the middle."""
    return fit_settings(
        NUM_STEPS, optimizer=Optimizer(learning_rate=0.003), checkpoint_every_steps=CHECKPOINT, **changes
    )


def _work(rank: int, port: int, folder: Path, runs: Mapping[str, tuple[FitSettings, str | None]]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=NUM_WORKERS)
    states: dict[str, bytes] = {}
    found = {}
    try:
        for name, (wanted, before) in runs.items():
            hooks = _Keeping()
            result = _train(rank, wanted, hooks, None if before is None else decode_state(states[before]))
            states[name] = hooks.states.get(CHECKPOINT, b"")
            losses = [each["loss"] for each in result.history if "loss" in each]
            found[name] = {"losses": losses, "weights": dict(result.weights["last"])}
        torch.save(found, folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def _train(rank: int, wanted: FitSettings, hooks: _Keeping, resume: State | None) -> FitResult:
    student = prepare(_student(), wanted, CPU)
    network: nn.Module = student if wanted.parallel == "fsdp" else nn.parallel.DistributedDataParallel(student)
    start = 0 if resume is None else int(resume["step"])
    batches = (_batch(step, rank) for step in range(start, NUM_STEPS))
    return fit(network, batches, LOSSES, settings=wanted, hooks=hooks, resume=resume)


def _student() -> StudentModel:
    torch.manual_seed(0)
    backbone = build_model(TimmModel(kind="timm", name="test_vit"), num_classes=NUM_CLASSES)
    for parameter in backbone.get_classifier().parameters():  # type: ignore[operator]
        parameter.requires_grad = False
    head = build_head(LinearHead(kind="linear"), in_width=backbone.num_features, out_width=WIDTH)  # type: ignore[arg-type]
    return StudentModel(backbone, heads={"0": head}, sources={"0": Source(output="summary")}, grids=[{}])


def _batch(step: int, rank: int) -> Batch:
    random = np.random.default_rng([step, rank])
    part = Part(
        inputs_BCHW=torch.from_numpy(random.normal(size=(SHARE, 3, SIZE_PX, SIZE_PX))).float(),
        labels=Labels.unmixed(torch.zeros(SHARE, dtype=torch.int64)),
        targets={("teacher", "summary"): torch.from_numpy(random.normal(size=(SHARE, WIDTH))).float()},
        sample_ids_B=np.arange(SHARE, dtype=np.uint64),
        view_indices_B=np.zeros(SHARE, np.int64),
    )
    return Batch(parts=(part,), num_images=SHARE)
