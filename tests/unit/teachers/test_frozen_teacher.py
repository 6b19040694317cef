"""A frozen teacher: same pixels, same targets, whatever the batch size; and it refuses to give nonsense."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd_ray.config.teacher import Teacher
from kd_ray.errors import ExtractionError, WeightsError
from kd_ray.models import build_model, model_outputs, save_weights, state_fingerprint, to_input
from kd_ray.models.cifar_resnet import CifarResNet
from kd_ray.storage import LocalStorage
from kd_ray.teachers import FrozenTeacher

ALL_OUTPUTS = {"summary": {}, "spatial": {}, "logits": {}}


def pixels(count: int, *, size: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def weights_uri(tmp_path: Path) -> str:
    torch.manual_seed(0)
    save_weights(CifarResNet(8, num_classes=10), LocalStorage(str(tmp_path)), "w.safetensors")
    return f"{tmp_path}/w.safetensors"


def config(weights_uri: str | None, **changes: object) -> Teacher:
    values = {
        "model": {"kind": "cifar_resnet", "depth": 8},
        "weights": weights_uri,
        "input": {"size_px": (32, 32)},
        "outputs": ALL_OUTPUTS,
    }
    return Teacher.model_validate(values | changes)


def frozen(teacher: Teacher, *, batch_size: int = 4, weights_uri: str | None = None) -> FrozenTeacher:
    return FrozenTeacher(teacher, num_classes=10, weights_uri=weights_uri, device="cpu", batch_size=batch_size)


def test_outputs_are_those_of_the_network(weights_uri: str) -> None:
    teacher = frozen(config(weights_uri), batch_size=8)
    found = teacher(pixels(8))
    x_BCHW = to_input(pixels(8), config(weights_uri).input)
    wanted = model_outputs(teacher.module, x_BCHW, names=tuple(ALL_OUTPUTS))
    for name, output in found.items():
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, wanted[name].numpy())


def test_only_configured_outputs_are_given(weights_uri: str) -> None:
    teacher = frozen(config(weights_uri, outputs={"spatial": {}, "spatial_stage": 0}))
    assert {name: output.shape for name, output in teacher(pixels(5)).items()} == {"spatial": (5, 32, 32, 16)}


def test_network_is_frozen(weights_uri: str) -> None:
    module = frozen(config(weights_uri)).module
    assert not any(m.training for m in module.modules())
    assert not any(p.requires_grad for p in module.parameters())


def test_calls_leave_the_weights_alone_and_repeat_exactly(weights_uri: str) -> None:
    teacher = frozen(config(weights_uri))
    first, second = teacher(pixels(6)), teacher(pixels(6))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert state_fingerprint(teacher.module) == teacher.weights_fingerprint


def test_batch_size_does_not_matter(weights_uri: str) -> None:
    one, many = frozen(config(weights_uri), batch_size=1), frozen(config(weights_uri), batch_size=7)
    found, wanted = one(pixels(9)), many(pixels(9))
    for name, output in wanted.items():
        # Relative to the output's scale: convolution kernels sum in another order for another batch size.
        np.testing.assert_allclose(found[name], output, rtol=0, atol=1e-6 * float(np.abs(output).max()))


def test_views_are_counted(weights_uri: str) -> None:
    teacher = frozen(config(weights_uri), batch_size=4)
    teacher(pixels(9))
    teacher(pixels(2))
    assert teacher.num_forwards == 11


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same_as_float32(precision: str, weights_uri: str) -> None:
    teacher = frozen(config(weights_uri, precision=precision))
    found, wanted = teacher(pixels(4))["summary"], frozen(config(weights_uri))(pixels(4))["summary"]
    assert found.dtype == np.float32
    assert not np.array_equal(found, wanted)
    # bfloat16 has 8 significant bits; 14 layers of it.
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_fingerprint_is_of_the_weights_before_the_cast(weights_uri: str) -> None:
    fingerprints = {frozen(config(weights_uri, precision=p)).weights_fingerprint for p in ("float32", "bfloat16")}
    assert len(fingerprints) == 1


def test_finetuned_weights_go_before_the_configured(weights_uri: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    finetuned = CifarResNet(8, num_classes=10)
    save_weights(finetuned, LocalStorage(str(tmp_path)), "finetuned.safetensors")
    teacher = frozen(config(weights_uri), weights_uri=f"{tmp_path}/finetuned.safetensors")
    assert teacher.weights_fingerprint == state_fingerprint(finetuned)


def test_teacher_that_waits_for_finetuning_is_refused() -> None:
    with pytest.raises(WeightsError, match="run the finetune stage first"):
        frozen(config(None, finetune={"steps": 1}))


def test_output_that_is_not_finite_is_named_with_its_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CifarResNet(8, num_classes=10)
    network.linear.weight.data.fill_(3e38)
    network.bn1.bias.data.fill_(10.0)
    save_weights(network, LocalStorage(str(tmp_path)), "w.safetensors")
    teacher = frozen(config(f"{tmp_path}/w.safetensors", outputs={"logits": {}}))
    with pytest.raises(ExtractionError, match=r"output 'logits' is not finite in 6 of 6 rows \(0, 1, 2, 3, 4, 5\)"):
        teacher(pixels(6))


def test_only_the_rows_that_are_not_finite_are_named(weights_uri: str) -> None:
    class NanAtRow(torch.nn.Module):
        """Passes logits on, but with NaN in the second row of each batch."""

        def forward(self, logits_BK: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.arange(len(logits_BK))[:, None] == 1, torch.nan, logits_BK)

    teacher = frozen(config(weights_uri, outputs={"logits": {}}), batch_size=3)
    assert isinstance(teacher.module, CifarResNet)
    teacher.module.linear = torch.nn.Sequential(teacher.module.linear, NanAtRow())  # type: ignore[assignment]
    with pytest.raises(ExtractionError, match=r"2 of 6 rows \(1, 4\)"):
        teacher(pixels(6))


def test_timm_teacher(tmp_path: Path) -> None:
    model = {"kind": "timm", "name": "test_vit", "args": {"img_size": 32, "patch_size": 8}}
    torch.manual_seed(0)
    teacher = config("unused", model=model)
    save_weights(build_model(teacher.model, num_classes=10), LocalStorage(str(tmp_path)), "w.safetensors")
    outputs = frozen(config(f"{tmp_path}/w.safetensors", model=model))(pixels(3))
    assert {name: output.shape for name, output in outputs.items()} == {
        "summary": (3, 64),
        "spatial": (3, 4, 4, 64),
        "logits": (3, 10),
    }
