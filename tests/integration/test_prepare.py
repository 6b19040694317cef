"""What is done to a student before it is trained, and to the process."""

import pytest
import torch
from torch import nn

from kd_ray.config.models import TimmModel
from kd_ray.errors import TrainingError
from kd_ray.models import build_model
from kd_ray.students.student import StudentModel
from kd_ray.training.fit import FitSettings
from kd_ray.training.prepare import determinism, prepare, synchronize_batch_norm
from tests.support.tiny_world import fit_settings

CPU = torch.device("cpu")


def student() -> StudentModel:
    torch.manual_seed(0)
    backbone = build_model(TimmModel(kind="timm", name="test_resnet"), num_classes=3)
    return StudentModel(backbone, heads={}, sources={}, grids=[{}])


def settings(**changes: object) -> FitSettings:
    return fit_settings(1, **changes)


def test_channels_last_is_the_layout_of_its_convolutions() -> None:
    prepared = prepare(student(), settings(channels_last=True), CPU)
    convolutions = [each.weight for each in prepared.modules() if isinstance(each, nn.Conv2d)]
    assert convolutions
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in convolutions)


def test_compiling_changes_no_name_of_a_weight() -> None:
    """`torch.compile(student)` would put `_orig_mod.` before each."""
    compiled = prepare(student(), settings(compile=True), CPU)
    assert compiled._compiled_call_impl is not None
    assert student()._compiled_call_impl is None
    assert compiled.state_dict().keys() == student().state_dict().keys()


def test_shared_batch_norm_keeps_the_activations_inside_it() -> None:
    """timm's BatchNormAct2d would lose its activation by torch's own conversion, and the outputs change."""
    plain, shared = student().eval(), student().eval()
    synchronize_batch_norm(shared)
    kinds = {type(each).__name__ for each in shared.modules()}
    assert "BatchNormAct2d" not in kinds
    assert kinds & {"SyncBatchNorm", "SyncBatchNormAct"}
    x_BCHW = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(shared(x_BCHW)["logits"], plain(x_BCHW)["logits"])


def test_shared_batch_norm_on_a_cpu_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"train\.sync_batch_norm: PyTorch shares statistics between GPUs alone"):
        prepare(student(), settings(sync_batch_norm=True), CPU)


def test_determinism_holds_for_a_block_and_ends_with_it() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    with determinism(on=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == before


def test_determinism_is_not_forced_on_anyone() -> None:
    with determinism(on=False):
        assert not torch.are_deterministic_algorithms_enabled()
