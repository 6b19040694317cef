"""An exported student opens in timm and in ONNX Runtime, and gives the same logits there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

from kd_ray.config.losses import FeatureLoss
from kd_ray.config.student import Student
from kd_ray.errors import ModelError
from kd_ray.models import build_model, load_weights, model_outputs
from kd_ray.storage import LocalStorage
from kd_ray.students import CardFacts, Formats, KeptHeads, build_student, export_student, without_classifier

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
    config: Student,
    folder: Path,
    *,
    onnx: bool = False,
    torch_export: bool = False,
    module: nn.Module | None = None,
    classes: tuple[str, ...] = CLASSES,
    **more: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    module = module or build_model(config.model, num_classes=3).eval()
    formats = Formats(onnx=onnx, torch_export=torch_export)
    storage = LocalStorage(str(folder))
    return module, export_student(
        module, config, num_classes=3, classes=classes, storage=storage, formats=formats, **more
    )


def elsewhere(script: str, folder: Path) -> dict[str, Any]:
    """What `script` prints as JSON, in a process without this project."""
    result = subprocess.run(
        [sys.executable, "-c", f"{script}\nassert 'kd_ray' not in sys.modules", str(folder)],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


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
    module, _ = export(student(model, size=size), tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x_BCHW = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(loaded(x_BCHW), module(x_BCHW))


def test_timm_reads_classes_and_preprocessing(tmp_path: Path) -> None:
    export(student(RESNET), tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    data = timm.data.resolve_model_data_config(loaded)
    assert loaded.num_classes == 3
    assert list(loaded.pretrained_cfg["label_names"]) == list(CLASSES)
    found = [tuple(data[key]) for key in ("input_size", "mean", "std")]
    assert found == [(3, 64, 64), (0.1, 0.2, 0.3), (0.229, 0.224, 0.225)]
    assert data["interpolation"] == "bilinear"
    assert data["crop_pct"] == 1.0


def test_exported_folder_is_a_student_again(tmp_path: Path) -> None:
    first, _ = export(student(RESNET), tmp_path / "first")
    config = student({"kind": "timm", "name": f"local-dir:{tmp_path}/first", "pretrained": True})
    second = build_model(config.model, num_classes=3).eval()
    export(config, tmp_path / "second", module=second)
    third = timm.create_model(f"local-dir:{tmp_path}/second", pretrained=True).eval()
    x_BCHW = torch.randn(1, 3, 64, 64)
    assert torch.equal(third(x_BCHW), first(x_BCHW))


def test_cifar_student_has_a_config_of_our_own(tmp_path: Path) -> None:
    config = student(CIFAR, size=32)
    module, measured = export(config, tmp_path)
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
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "message"), [(HasBranch(), "cannot be exported"), (DropsRandomly(), "differ from")])
def test_model_that_torch_export_cannot_reproduce_is_refused(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export(student(CIFAR, size=32), tmp_path, torch_export=True, module=module)
    assert list(tmp_path.iterdir()) == []


class OtherInTimm(nn.Module):
    """Says that it is timm's network of that name, and is not."""

    num_classes, num_features = 3, 5

    def __init__(self) -> None:
        super().__init__()
        self.inner = timm.create_model("test_resnet", num_classes=3)
        self.pretrained_cfg = self.inner.pretrained_cfg

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        return self.inner.state_dict(*arguments, **named)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return 2 * self.inner(x_BCHW)


def test_folder_in_which_timm_finds_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="outputs of the folder in timm differ from PyTorch's"):
        export(student(RESNET), tmp_path, module=OtherInTimm().eval())
    assert list(tmp_path.iterdir()) == []


def test_folder_opens_in_a_process_with_timm_alone(tmp_path: Path) -> None:
    module, measured = export(student(RESNET), tmp_path, torch_export=True)
    script = """
import json, sys, timm, torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
program = torch.export.load(f"{sys.argv[1]}/model.pt2").module()
x = torch.linspace(-1, 1, 3 * 3 * 64 * 64).reshape(3, 3, 64, 64)
with torch.no_grad():
    print(json.dumps([model(x).tolist(), program(x).tolist()]))
"""
    of_timm, of_program = elsewhere(script, tmp_path)
    x_BCHW = torch.linspace(-1, 1, 3 * 3 * 64 * 64).reshape(3, 3, 64, 64)
    wanted_BK = module(x_BCHW).detach()
    torch.testing.assert_close(torch.tensor(of_timm), wanted_BK)
    torch.testing.assert_close(torch.tensor(of_program), wanted_BK, rtol=1e-4, atol=1e-5)
    assert measured["timm_max_abs_difference"] == 0.0
    assert measured["torch_export_max_abs_difference"] < 1e-4


@pytest.mark.parametrize(("model", "size"), [(RESNET, 64), (CIFAR, 32)], ids=["timm", "cifar"])
def test_student_without_a_classifier_gives_its_summary(model: dict[str, Any], size: int, tmp_path: Path) -> None:
    config = student(model, size=size)
    torch.manual_seed(0)
    trained = build_model(config.model, num_classes=3).eval()
    bare = without_classifier(trained, config)
    _, measured = export(config, tmp_path, onnx=True, module=bare, classes=())
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["num_classes"] == measured["num_classes"] == 0
    assert "label_names" not in document
    x_BCHW = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted_BD = model_outputs(trained, x_BCHW, names=("summary",))["summary"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found_BD,) = session.run(["summary"], {"pixels": x_BCHW.numpy()})
    np.testing.assert_allclose(found_BD, wanted_BD.numpy(), atol=1e-4 * float(wanted_BD.abs().max()))
    if model is RESNET:
        opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert opened.num_classes == 0
        torch.testing.assert_close(opened(x_BCHW).detach(), wanted_BD)


def test_kept_heads_give_features_as_the_teacher_does(tmp_path: Path) -> None:
    config = student(CIFAR, size=32)
    losses = [
        FeatureLoss.model_validate({"kind": "feature", "output": "summary"}),
        FeatureLoss.model_validate(
            {"kind": "feature", "output": "spatial", "head": {"kind": "attention", "hidden_width": 16}}
        ),
    ]
    torch.manual_seed(0)
    trained = build_student(config, num_classes=3, losses=losses, target_shapes=({0: (24,), 1: (4, 4, 12)},)).eval()
    described = {"0": {"teacher": "a", "output": "summary"}, "1": {"teacher": "b", "output": "spatial"}}
    export(config, tmp_path, module=trained.backbone, heads=KeptHeads(student=trained, described=described))
    told = json.loads((tmp_path / "heads.json").read_text())
    assert [(each["key"], each["teacher"]) for each in told] == [("0", "a"), ("1", "b")]
    script = """
import json, sys, torch
program = torch.export.load(f"{sys.argv[1]}/features.pt2").module()
found = program(torch.linspace(-1, 1, 5 * 3 * 32 * 32).reshape(5, 3, 32, 32))
print(json.dumps([each.tolist() for each in found]))
"""
    found = elsewhere(script, tmp_path)
    wanted = trained(torch.linspace(-1, 1, 5 * 3 * 32 * 32).reshape(5, 3, 32, 32))
    for index, each in enumerate(found):
        torch.testing.assert_close(torch.tensor(each), wanted[f"feature_{index}"].detach(), rtol=1e-4, atol=1e-4)
    again = build_student(config, num_classes=3, losses=losses, target_shapes=({0: (24,), 1: (4, 4, 12)},))
    load_weights(again.heads, f"{tmp_path}/heads.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.heads.parameters(), trained.heads.parameters(), strict=True))


def test_card_says_where_the_student_comes_from(tmp_path: Path) -> None:
    facts = CardFacts(
        name="small",
        teachers={"big": "vit_base | augreg, weights 0123"},
        corpus_id="c0ffee",
        targets={"big": "fedcba"},
        policy="strong",
        metrics={"top1": 0.8125},
        recipe_yaml="name: mine\n",
    )
    export(student(RESNET), tmp_path, facts=facts)
    card = (tmp_path / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "knowledge-distillation"],
    }
    assert "# license: choose one" in front
    for wanted in ("# small", "c0ffee", "fedcba", "strong", "| top1 | 0.8125 |", "name: mine", r"vit_base \| augreg"):
        assert wanted in body
    assert "model.safetensors" in body
    assert "model.onnx" not in body
