"""A student made ready for the device and the way in which it is trained."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from kd_ray.errors import TrainingError
from kd_ray.students.student import StudentModel
from kd_ray.training.fit import FitSettings
from kd_ray.training.mutual import MutualStudents, students_of
from kd_ray.training.sharding import shard

CUBLAS_VARIABLE, CUBLAS_VALUE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"  # NVIDIA's, for products that repeat themselves


Network = TypeVar("Network", StudentModel, MutualStudents, StudentModel | MutualStudents)


def prepare(network: Network, settings: FitSettings, device: torch.device) -> Network:
    """Every student of a loop made ready; raises what `prepare_student` does."""
    for each in students_of(network):
        prepare_student(each, settings, device)
    return network


def prepare_student(student: StudentModel, settings: FitSettings, device: torch.device) -> StudentModel:
    """The student on `device`, changed in place as `settings` ask; under DDP it is still to be wrapped.

    Raises:
        TrainingError: the statistics of BatchNorm are to be shared on a CPU, which PyTorch cannot.
    """
    if settings.sync_batch_norm:
        if device.type != "cuda":
            raise TrainingError(
                f"train.sync_batch_norm: PyTorch shares statistics between GPUs alone, and this worker has {device}. "
                "Set train.resources_per_worker.num_gpus, or remove it."
            )
        synchronize_batch_norm(student)
    student.to(device)
    if settings.channels_last:
        student.to(memory_format=torch.channels_last)
    if settings.parallel == "fsdp":
        shard(student, student.backbone, device)
    if settings.compile:
        student.compile()
    return student


def synchronize_batch_norm(student: StudentModel) -> None:
    """BatchNorm, and timm's with an activation inside (which torch's own conversion would drop), over all workers."""
    import timm.layers

    convert: Any = timm.layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    student.backbone = convert(student.backbone)
    student.heads = convert(student.heads)


@contextmanager
def determinism(*, on: bool) -> Iterator[None]:
    """A block in which PyTorch uses only algorithms that repeat themselves, and raises where it has none."""
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_VALUE)  # read where cuBLAS is first used in this process
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1], benchmark
