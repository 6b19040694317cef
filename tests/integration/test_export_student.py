"""An exported student opens in timm and in ONNX Runtime, and gives the same logits there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

from kd_ray.config.student import Student
from kd_ray.errors import ModelError
from kd_ray.models import build_model, load_weights
from kd_ray.storage import LocalStorage
from kd_ray.students import export_student

CLASSES = ("ant", "bee", "cat")
RESNET = {"kind": "timm", "name": "test_resnet"}
CIFAR = {"kind": "cifar_resnet", "depth": 8}


class HasBranch(nn.Module):
    """Its graph depends on the values of its input, which ONNX cannot express."""

    num_classes = 3

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mean(dim=(2, 3)) if x_BCHW.sum().item() > 0 else x_BCHW.amax(dim=(2, 3))


class DropsRandomly(nn.Module):
    """Random in evaluation too, so that no two runtimes agree."""

    num_classes = 3

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return nn.functional.dropout(x_BCHW, p=0.5, training=True).sum(dim=(2, 3))


def student(model: dict[str, Any], *, size: int = 64) -> Student:
    values = {"model": model, "input": {"size_px": (size, size), "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"}}
    return Student.model_validate(values)


def export(
    config: Student, folder: Path, *, onnx: bool, module: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    module = module or build_model(config.model, num_classes=3).eval()
    storage = LocalStorage(str(folder))
    return module, export_student(module, config, num_classes=3, classes=CLASSES, storage=storage, onnx=onnx)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (RESNET, 64),
        ({"kind": "timm", "name": "test_convnext"}, 64),
        ({"kind": "timm", "name": "test_vit", "args": {"img_size": 64, "patch_size": 8}}, 64),
        # Position embedding of 160 px, fed with 96: timm must not size it by input_size.
        ({"kind": "timm", "name": "test_vit", "args": {"dynamic_img_size": True}}, 96),
        ({"kind": "timm", "name": "vit_tiny_patch16_224.augreg_in21k", "args": {"depth": 1}}, 224),
    ],
    ids=["resnet", "convnext", "vit", "vit-dynamic", "vit-tag"],
)
def test_timm_opens_the_folder_with_no_other_argument(model: dict[str, Any], size: int, tmp_path: Path) -> None:
    module, _ = export(student(model, size=size), tmp_path, onnx=False)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x_BCHW = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(loaded(x_BCHW), module(x_BCHW))


def test_timm_reads_classes_and_preprocessing(tmp_path: Path) -> None:
    export(student(RESNET), tmp_path, onnx=False)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    data = timm.data.resolve_model_data_config(loaded)
    assert loaded.num_classes == 3
    assert list(loaded.pretrained_cfg["label_names"]) == list(CLASSES)
    found = [tuple(data[key]) for key in ("input_size", "mean", "std")]
    assert found == [(3, 64, 64), (0.1, 0.2, 0.3), (0.229, 0.224, 0.225)]
    assert data["interpolation"] == "bilinear"
    assert data["crop_pct"] == 1.0


def test_exported_folder_is_a_student_again(tmp_path: Path) -> None:
    first, _ = export(student(RESNET), tmp_path / "first", onnx=False)
    config = student({"kind": "timm", "name": f"local-dir:{tmp_path}/first", "pretrained": True})
    second = build_model(config.model, num_classes=3).eval()
    export(config, tmp_path / "second", onnx=False, module=second)
    third = timm.create_model(f"local-dir:{tmp_path}/second", pretrained=True).eval()
    x_BCHW = torch.randn(1, 3, 64, 64)
    assert torch.equal(third(x_BCHW), first(x_BCHW))


def test_cifar_student_has_a_config_of_our_own(tmp_path: Path) -> None:
    config = student(CIFAR, size=32)
    module, measured = export(config, tmp_path, onnx=False)
    document = json.loads((tmp_path / "config.json").read_text())
    assert (document["kind"], document["depth"], document["num_classes"]) == ("cifar_resnet", 8, 3)
    assert document["label_names"] == list(CLASSES)
    assert document["input"]["size_px"] == [32, 32]
    again = build_model(config.model, num_classes=3).eval()
    load_weights(again, f"{tmp_path}/model.safetensors")
    assert torch.equal(again(torch.ones(1, 3, 32, 32)), module(torch.ones(1, 3, 32, 32)))
    assert measured["bytes"] == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("model", [CIFAR, RESNET], ids=["cifar", "resnet"])
def test_onnx_gives_the_same_logits_at_any_batch_size(
    model: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, measured = export(student(model, size=32), tmp_path, onnx=True)
    assert capfd.readouterr().out == ""
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x_BCHW = torch.randn(batch, 3, 32, 32)
        (found_BK,) = session.run(["logits"], {"pixels": x_BCHW.numpy()})
        wanted_BK = module(x_BCHW).detach().numpy()
        np.testing.assert_allclose(found_BK, wanted_BK, atol=1e-4 * np.abs(wanted_BK).max())
    assert 0 <= measured["onnx_max_abs_difference"] < 1e-3
    assert measured["onnx_bytes"] == (tmp_path / "model.onnx").stat().st_size


def test_export_leaves_the_module_in_training(tmp_path: Path) -> None:
    config = student(CIFAR, size=32)
    module = build_model(config.model, num_classes=3).train()
    export(config, tmp_path, onnx=True, module=module)
    assert module.training


@pytest.mark.parametrize(("module", "message"), [(HasBranch(), "cannot be exported"), (DropsRandomly(), "differ from")])
def test_model_that_onnx_cannot_reproduce_is_refused(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export(student(CIFAR, size=32), tmp_path, onnx=True, module=module)
    assert not (tmp_path / "model.onnx").exists()
