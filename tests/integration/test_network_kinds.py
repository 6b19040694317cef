"""Every kind of network: built, its outputs and their planned shapes, one training step, and what is refused."""

import io
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from kd_ray.config.losses import CrossEntropyLoss
from kd_ray.config.models import Model, TeacherModel
from kd_ray.config.networks import ExportedModel
from kd_ray.config.outputs import LastBlocks, Layer, Token
from kd_ray.config.student import Student
from kd_ray.config.teacher import Teacher
from kd_ray.errors import ModelError, WeightsError
from kd_ray.models import build_model, code_digest, model_outputs, output_shapes
from kd_ray.storage import LocalStorage
from kd_ray.students.export import Formats, export_student
from kd_ray.students.student import build_student
from kd_ray.teachers import FrozenTeacher
from tests.support.networks import SmallClassifier, SmallNet, dense_net, small_classifier, small_net, write_repository

NETWORK: TypeAdapter[Model] = TypeAdapter(Model)
LOSS = CrossEntropyLoss(kind="cross_entropy")
NETWORKS = "tests.support.networks"


def model(**values: Any) -> Model:
    return NETWORK.validate_python(values)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    before, modules = list(sys.path), set(sys.modules)
    yield write_repository(tmp_path / "repository")
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name == "backbones":
            del sys.modules[name]


def program(module: nn.Module, path: Path) -> ExportedModel:
    example = (torch.randn(2, 3, 16, 16),)
    if path.suffix == ".pt2":
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=({0: batch},)), path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(module.eval(), example, strict=False).save(str(path))
    return ExportedModel(kind="exported", program=str(path))


TORCHVISION = [
    ("resnet18", {}, 64, (2, 2, 512)),
    ("mobilenet_v3_small", {}, 64, (2, 2, 576)),
    ("regnet_y_400mf", {}, 64, (2, 2, 440)),
    ("swin_t", {}, 64, (2, 2, 768)),
    ("vit_b_16", {"image_size": 32}, 32, (2, 2, 768)),
]


@pytest.mark.parametrize(("name", "args", "size", "grid"), TORCHVISION, ids=[each[0] for each in TORCHVISION])
def test_torchvision(name: str, args: dict[str, Any], size: int, grid: tuple[int, ...]) -> None:
    config = model(kind="torchvision", name=name, args=args)
    torch.manual_seed(0)
    module = build_model(config, num_classes=5).eval()
    x_BCHW = torch.randn(2, 3, size, size)
    names = ("summary", "spatial", "logits")
    outputs = model_outputs(module, x_BCHW, names=names)
    torch.testing.assert_close(outputs["logits"], module(x_BCHW))
    classifier = [each for each in module.modules() if isinstance(each, nn.Linear)][-1]
    torch.testing.assert_close(classifier(outputs["summary"]), outputs["logits"])
    shapes = {key: tuple(each.shape[1:]) for key, each in outputs.items()}
    assert shapes["spatial"] == grid
    assert shapes == output_shapes(config, size_px=(size, size), num_classes=5, names=names, spatial_stage=-1)


def test_mean_of_torchvisions_map_is_its_summary() -> None:
    for name in ("resnet18", "swin_t"):
        module = build_model(model(kind="torchvision", name=name), num_classes=5).eval()
        outputs = model_outputs(module, torch.randn(1, 3, 64, 64), names=("summary", "spatial"))
        torch.testing.assert_close(outputs["spatial"].mean(dim=(1, 2)), outputs["summary"])


def test_class_token_of_torchvisions_vit_is_its_summary_and_earlier_blocks_differ() -> None:
    module = build_model(model(kind="torchvision", name="vit_b_16", args={"image_size": 32}), num_classes=5).eval()
    x_BCHW = torch.randn(1, 3, 32, 32)
    (pooled_BD,) = model_outputs(module, x_BCHW, names=["summary"]).values()
    two = LastBlocks(kind="last_blocks", count=2)
    (both_BD,) = model_outputs(module, x_BCHW, names=["summary"], summary_from=two).values()
    torch.testing.assert_close(both_BD[:, 768:], pooled_BD)
    assert not torch.allclose(both_BD[:, :768], pooled_BD, atol=1e-3)


def test_dino_repository(repository: Path) -> None:
    config = model(kind="torch_hub", repository=str(repository), entry="tiny_dino", args={"depth": 4})
    torch.manual_seed(0)
    module = build_model(config, num_classes=None).eval()
    x_BCHW = torch.randn(2, 3, 16, 24)
    outputs = model_outputs(
        module,
        x_BCHW,
        names=("summary", "spatial"),
        summary_from=LastBlocks(kind="last_blocks", count=4, mean=True),
        spatial_stage=1,
    )
    # dinov2/eval/utils.py and dinov2/eval/linear.py (create_linear_input): class tokens of 4 blocks, mean of the last
    layers: Any = module.get_intermediate_layers(x_BCHW, n=4, return_class_token=True)
    wanted_BD = torch.cat([*(cls for _, cls in layers), layers[-1][0].mean(dim=1)], dim=1)
    torch.testing.assert_close(outputs["summary"], wanted_BD)
    torch.testing.assert_close(outputs["spatial"], layers[1][0].reshape(2, 2, 3, 16))
    (pooled_BD,) = model_outputs(module, x_BCHW, names=["summary"]).values()
    torch.testing.assert_close(pooled_BD, module(x_BCHW))
    names = ("summary", "spatial")
    planned = output_shapes(config, size_px=(16, 24), num_classes=None, names=names, spatial_stage=-1)
    assert planned == {"summary": (16,), "spatial": (2, 3, 16)}


def test_digest_of_a_repository_is_that_of_its_code(repository: Path) -> None:
    config = model(kind="torch_hub", repository=str(repository), entry="tiny_dino")
    before = code_digest(config)
    (repository / "notes.txt").write_text("no code")
    assert code_digest(config) == before
    with (repository / "backbones.py").open("a") as file:
        file.write("# one line more\n")
    assert code_digest(config) != before


def test_repository_without_the_function_names_those_it_has(repository: Path) -> None:
    config = model(kind="torch_hub", repository=str(repository), entry="huge_dino")
    with pytest.raises(ModelError, match=r"has no 'huge_dino'; it has .*classifier, tiny_dino"):
        build_model(config, num_classes=None)
    with pytest.raises(ModelError, match=r"has no hubconf\.py"):
        build_model(config.model_copy(update={"repository": str(repository / "none")}), num_classes=None)


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
def test_program_gives_what_the_network_gives(suffix: str, tmp_path: Path) -> None:
    network = small_net()
    config = program(network, tmp_path / f"net{suffix}")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    teacher = Teacher.model_validate(
        {
            "model": config.model_dump(),
            "input": {"size_px": (16, 16), "mean": (0, 0, 0), "std": (1, 1, 1)},
            "outputs": {"summary": {}, "spatial": {}, "logits": {}},
        }
    )
    frozen = FrozenTeacher(teacher, num_classes=None, weights_uri=None, device="cpu", batch_size=3)
    wanted = network.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    for name, output in frozen(pixels).items():
        np.testing.assert_allclose(output, wanted[name].detach().numpy(), atol=1e-6)
    names = ("summary", "spatial", "logits")
    planned = output_shapes(config, size_px=(16, 16), num_classes=None, names=names, spatial_stage=-1)
    assert planned == {"summary": (8,), "spatial": (4, 4, 8), "logits": (5,)}


def test_program_of_a_fixed_batch_is_refused_before_any_work(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(small_net().eval(), (torch.randn(2, 3, 16, 16),)), tmp_path / "net.pt2")
    config = ExportedModel(kind="exported", program=str(tmp_path / "net.pt2"))
    with pytest.raises(ModelError, match=r"fails on a batch of 3 images of 16x16 px: .*\[B, 3, H, W\] of any B"):
        output_shapes(config, size_px=(16, 16), num_classes=None, names=["logits"], spatial_stage=-1)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.path),)


def pickled_trap(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Trap(tmp_path / "executed"), buffer)
    return buffer.getvalue()


def rewritten(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """`source` with the members whose names end as the keys of `change` say replaced by what its functions give."""
    changed = 0
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            for end, function in change.items():
                if name.endswith(end):
                    data, changed = function(data), changed + 1
            new.writestr(name, data)
    assert changed, "nothing was changed"
    return target


def test_programs_that_would_execute_code_are_refused_and_do_not(tmp_path: Path) -> None:
    honest = Path(program(small_net(), tmp_path / "honest.pt2").program)
    trap = pickled_trap(tmp_path)
    call = f"__import__('os').mkdir('{tmp_path}/executed')".encode()
    attacks = {
        "sample inputs": {"sample_inputs/model.pt": lambda _data: trap},
        "pickled weight": {
            "weights/weight_0": lambda _data: trap,
            "model_weights_config.json": lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true', 1),
        },
        "expression": {"models/model.json": lambda data: data.replace(b"positive=True", call, 1)},
        "named call": {"models/model.json": lambda data: data.replace(b"Symbol(", b"exec(", 1)},
        "operator": {"models/model.json": lambda data: data.replace(b"torch.ops.aten.relu.default", b"torch.load", 1)},
    }
    for title, change in attacks.items():
        path = rewritten(honest, tmp_path / f"{title}.pt2", change)
        with pytest.raises(WeightsError, match="would execute code, so it was not loaded"):
            build_model(ExportedModel(kind="exported", program=str(path)), num_classes=None)
        assert not (tmp_path / "executed").exists(), title


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    torch.save(small_net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="not a TorchScript program but a checkpoint"):
        build_model(ExportedModel(kind="exported", program=str(tmp_path / "weights.pt")), num_classes=None)
    (tmp_path / "cut.pt2").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="not a whole program"):
        build_model(ExportedModel(kind="exported", program=str(tmp_path / "cut.pt2")), num_classes=None)
    with pytest.raises(WeightsError, match="no such file"):
        build_model(ExportedModel(kind="exported", program=str(tmp_path / "none.pt2")), num_classes=None)


def test_torchscript_does_not_unpickle_python_objects(tmp_path: Path) -> None:
    honest = Path(program(small_net(), tmp_path / "honest.ts").program)

    def executing(_data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(pickled_trap(tmp_path))) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    path = rewritten(honest, tmp_path / "bad.ts", {"/data.pkl": executing})
    with pytest.raises(ModelError, match="cannot read this program"):
        build_model(ExportedModel(kind="exported", program=str(path)), num_classes=None)
    assert not (tmp_path / "executed").exists()


def test_function_gets_the_number_of_classes_where_it_takes_it() -> None:
    own = build_model(model(kind="python", function=f"{NETWORKS}:small_net"), num_classes=9)
    assert isinstance(own, SmallNet)
    assert own.linear.out_features == 9
    config = model(kind="python", function=f"{NETWORKS}:small_classifier")
    assert isinstance(build_model(config, num_classes=9), SmallClassifier)
    with pytest.raises(ModelError, match="gives logits of 5 classes, 9 are needed"):
        output_shapes(config, size_px=(16, 16), num_classes=9, names=["logits"], spatial_stage=-1)


def test_dense_logits_of_a_bare_tensor() -> None:
    x_BCHW = torch.randn(2, 3, 8, 16)
    (logits_BHWK,) = model_outputs(dense_net(), x_BCHW, names=["logits"]).values()
    torch.testing.assert_close(logits_BHWK, dense_net()(x_BCHW).permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("nowhere.at.all:net", "cannot be imported: No module named 'nowhere'"),
        (f"{NETWORKS}:nothing", "cannot be imported: .*'nothing'"),
        (f"{NETWORKS}:not_a_network", "gives str, not a torch.nn.Module"),
    ],
)
def test_functions_that_give_no_network(function: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build_model(model(kind="python", function=function), num_classes=None)


def test_function_that_lacks_an_output_says_what_it_gives() -> None:
    with pytest.raises(ModelError, match="SmallClassifier gives logits, but summary is asked of it"):
        model_outputs(small_classifier(), torch.randn(1, 3, 16, 16), names=["summary", "logits"])
    layer = Layer(kind="layer", layer="stem")
    outputs = model_outputs(
        small_classifier(), torch.randn(1, 3, 16, 16), names=["spatial", "logits"], spatial_from=layer
    )
    assert outputs["spatial"].shape == (1, 4, 4, 8)
    with pytest.raises(ModelError, match=r"layer 'stem\.conv': stem has no 'conv'"):
        model_outputs(
            small_classifier(),
            torch.randn(1, 3, 16, 16),
            names=["spatial"],
            spatial_from=Layer(kind="layer", layer="stem.conv"),
        )
    with pytest.raises(ModelError, match="has no class token"):
        model_outputs(small_net(), torch.randn(1, 3, 16, 16), names=["summary"], summary_from=Token(kind="cls"))


def students(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {
        "torchvision": {"kind": "torchvision", "name": "mobilenet_v3_small"},
        "timm": {"kind": "timm", "name": "test_resnet"},
        "cifar_resnet": {"kind": "cifar_resnet", "depth": 8},
        "python": {"kind": "python", "function": f"{NETWORKS}:small_net"},
    }


@pytest.mark.parametrize("kind", ["torchvision", "timm", "cifar_resnet", "python"])
def test_student_trains_one_step_is_exported_and_comes_back_as_a_checkpoint(kind: str, tmp_path: Path) -> None:
    config = Student.model_validate({"model": students(tmp_path)[kind], "input": {"size_px": (32, 32)}})
    torch.manual_seed(0)
    student = build_student(config, num_classes=5, losses=[LOSS], target_shapes=({},)).train()
    x_BCHW = torch.randn(4, 3, 32, 32)
    before = {name: each.clone() for name, each in student.backbone.named_parameters()}
    student(x_BCHW)["logits"].square().mean().backward()
    torch.optim.SGD(student.parameters(), lr=0.1).step()
    assert any(not torch.equal(each, before[name]) for name, each in student.backbone.named_parameters())
    module = student.backbone.eval()
    export_student(
        module,
        config,
        num_classes=5,
        classes=list("abcde"),
        storage=LocalStorage(str(tmp_path)),
        formats=Formats(onnx=False, torch_export=False),
    )
    again = model(kind="checkpoint", uri=str(tmp_path))
    restored = build_model(again, num_classes=5).eval()
    found = model_outputs(restored, x_BCHW, names=["logits"])
    torch.testing.assert_close(found, model_outputs(module, x_BCHW, names=["logits"]))
    planned = output_shapes(again, size_px=(32, 32), num_classes=None, names=["logits"], spatial_stage=-1)
    assert planned == {"logits": (5,)}
    with pytest.raises(ModelError, match="its classifier has 5 classes, 7 are needed"):
        build_model(again, num_classes=7)


def test_kinds_that_cannot_be_built_are_told() -> None:
    with pytest.raises(ModelError, match=r"no classification model 'resnet19'; did you mean .*resnet18"):
        build_model(model(kind="torchvision", name="resnet19"), num_classes=None)
    with pytest.raises(ModelError, match="no weights 'V3' for resnet18; it has IMAGENET1K_V1"):
        build_model(model(kind="torchvision", name="resnet18", pretrained="V3"), num_classes=None)
    with pytest.raises(ModelError, match=r"nowhere has no config.json"):
        build_model(model(kind="checkpoint", uri="/nowhere"), num_classes=None)


@pytest.mark.parametrize(
    "values",
    [
        {"weights": "w.safetensors", "model": {"kind": "exported", "program": "a.pt2"}},
        {"weights": "w.safetensors", "model": {"kind": "torchvision", "name": "resnet18", "pretrained": "DEFAULT"}},
        {"finetune": {"steps": 1}, "model": {"kind": "exported", "program": "a.pt2"}},
        {"model": {"kind": "torchvision", "name": "resnet18"}},
        {"model": {"kind": "python", "function": "os.system('x')"}},
        {"model": {"kind": "exported", "program": "weights.pkl"}},
    ],
    ids=str,
)
def test_recipes_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Teacher.model_validate({"input": {"size_px": (32, 32)}, "outputs": {"logits": {}}} | values)


def test_programs_are_teachers_alone() -> None:
    with pytest.raises(ValueError, match="exported"):
        Student.model_validate({"model": {"kind": "exported", "program": "a.pt2"}, "input": {"size_px": (32, 32)}})
    assert TypeAdapter(TeacherModel).validate_python({"kind": "exported", "program": "a.pt2"})
