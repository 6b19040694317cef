"""Weights: formats, refusals, and a fingerprint of content."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kd_ray.errors import WeightsError
from kd_ray.models import load_weights, save_weights, state_fingerprint
from kd_ray.models.cifar_resnet import CifarResNet
from kd_ray.storage import LocalStorage, Storage, open_storage

Writer = Callable[[dict[str, Tensor], Path], Path]


def network(seed: int) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(8, num_classes=10)


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def write_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_checkpoint(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


def write_wrapped(state: dict[str, Tensor], folder: Path) -> Path:
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, folder / "weights.pth")
    return folder / "weights.pth"


def write_under_model(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"model": state}, folder / "weights.ckpt")
    return folder / "weights.ckpt"


def write_legacy(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.bin", _use_new_zipfile_serialization=False)
    return folder / "weights.bin"


WRITERS = [write_safetensors, write_checkpoint, write_wrapped, write_under_model, write_legacy]


@pytest.mark.parametrize("write", WRITERS)
def test_round_trip(write: Writer, tmp_path: Path) -> None:
    source, target = network(0), network(1)
    load_weights(target, str(write(source.state_dict(), tmp_path)))
    assert equal_states(source, target)
    assert state_fingerprint(source) == state_fingerprint(target)


def test_file_uri(tmp_path: Path) -> None:
    source, target = network(0), network(1)
    load_weights(target, f"file://{write_safetensors(source.state_dict(), tmp_path)}")
    assert equal_states(source, target)


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(network(0).state_dict(), tmp_path)
    monkeypatch.chdir(tmp_path)
    target = network(1)
    load_weights(target, "weights.safetensors")
    assert equal_states(network(0), target)


def test_saved_weights_load_again(tmp_path: Path) -> None:
    source, target = network(0), network(1)
    storage: Storage = LocalStorage(str(tmp_path))
    save_weights(source, storage, "final/model.safetensors")
    load_weights(target, f"{tmp_path}/final/model.safetensors")
    assert equal_states(source, target)


def test_tied_and_transposed_tensors_can_be_saved(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        first.register_buffer("transposed", torch.arange(6.0).reshape(2, 3).T)
        return nn.Sequential(first, second)

    source, target = tied(), tied()
    save_weights(source, LocalStorage(str(tmp_path)), "m.safetensors")
    load_weights(target, f"{tmp_path}/m.safetensors")
    assert equal_states(source, target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    source, target = network(0), network(1)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in source.state_dict().items()}
    load_weights(target, str(write_safetensors(state, tmp_path)))
    assert target.conv1.weight.dtype == torch.float32
    assert torch.equal(target.conv1.weight, source.conv1.weight.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_other_dtypes_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    state = network(0).state_dict() | {"linear.bias": torch.zeros(10, dtype=dtype)}
    with pytest.raises(WeightsError, match=rf"linear\.bias is {dtype}, the model has torch\.float32"):
        load_weights(network(1), str(write_safetensors(state, tmp_path)))


def test_count_of_batches_may_be_missing(tmp_path: Path) -> None:
    source, target = network(0), network(1)
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(target, str(write_safetensors(state, tmp_path)))
    assert equal_states(source, target)


def test_differences_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = network(0).state_dict()
    state["extra.weight"] = state.pop("conv1.weight")
    state["linear.bias"] = torch.zeros(7)
    target = network(1)
    before = state_fingerprint(target)
    with pytest.raises(WeightsError) as error:
        load_weights(target, str(write_safetensors(state, tmp_path)))
    message = str(error.value)
    assert "1 missing (conv1.weight)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "linear.bias is [7], the model has [10]" in message
    assert state_fingerprint(target) == before


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_executes_is_refused_and_not_executed(zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    torch.save({"conv1.weight": Malicious(trap)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="would execute code"):
        load_weights(network(0), f"{tmp_path}/w.pt")
    assert not trap.exists()


def test_checkpoint_of_something_else_is_described(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="got keys epoch, optimizer"):
        load_weights(network(0), f"{tmp_path}/w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_cut_file_is_refused(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(network(0).state_dict(), buffer)
    data = safetensors.torch.save(network(0).state_dict()) if name.endswith("safetensors") else buffer.getvalue()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="not a whole"):
        load_weights(network(0), f"{tmp_path}/{name}")


def test_missing_file_is_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(network(0), f"{tmp_path}/none.safetensors")


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"unknown kind of weights '\.npz'"):
        load_weights(network(0), f"{tmp_path}/w.npz")


def test_fingerprint_sees_one_changed_bit() -> None:
    module = network(0)
    before = state_fingerprint(module)
    module.conv1.weight.data.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert state_fingerprint(module) != before


def test_fingerprint_sees_dtype_and_shape() -> None:
    states = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32)]
    fingerprints = set()
    for state in states:
        module = nn.Module()
        module.register_buffer("x", state)
        fingerprints.add(state_fingerprint(module))
    assert len(fingerprints) == 3


@pytest.mark.parametrize("folder", ["student-learning_rate-0.001-3fa0c1", "student"])
def test_the_folder_of_a_finished_student_stands_for_its_weights(folder: str, tmp_path: Path) -> None:
    student, other = network(1), network(2)
    save_weights(student, open_storage(f"{tmp_path}/{folder}"), "model.safetensors")
    load_weights(other, f"{tmp_path}/{folder}")
    assert equal_states(other, student)


def test_a_folder_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"folder of a finished student, which holds model\.safetensors"):
        load_weights(network(0), str(tmp_path))
