"""A trained student as files that other programs open: safetensors and config.json for timm, ONNX, torch.export."""

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from kd_ray.config.models import CifarResNet, TimmModel
from kd_ray.config.networks import CheckpointModel, PythonModel, TorchHubModel, TorchvisionModel, TransformersModel
from kd_ray.config.student import Student
from kd_ray.errors import ModelError
from kd_ray.models import build_model, model_outputs
from kd_ray.models.kinds.checkpoint import exported_model
from kd_ray.models.weights import weights_bytes
from kd_ray.storage import Storage
from kd_ray.students.model_card import CARD_NAME, CardFacts, model_card
from kd_ray.students.programs import checked_difference, onnx_program, run_onnx, run_torch, torch_program
from kd_ray.students.student import StudentModel

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
ONNX_NAME = "model.onnx"
TORCH_NAME = "model.pt2"
HEADS_NAME = "heads.safetensors"
HEADS_CONFIG_NAME = "heads.json"
FEATURES_NAME = "features.pt2"
FILES = {
    WEIGHTS_NAME: "the weights",
    CONFIG_NAME: "architecture, classes and preprocessing",
    ONNX_NAME: "ONNX, from pixels [B, 3, H, W], already normalised, any B",
    TORCH_NAME: "torch.export, from the same pixels",
    HEADS_NAME: "the weights of the projection heads",
    HEADS_CONFIG_NAME: "which output of which teacher each head gives, in the order of features.pt2",
    FEATURES_NAME: "torch.export, from the same pixels to the features of every head",
}
# Where a checkpoint came from and how that one was tested: not true of the student.
SOURCE_KEYS = frozenset(
    {"url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "state_dict", "license", "description"}
    | {"origin_url", "paper_name", "paper_ids", "notes", "label_offset", "label_names", "label_descriptions"}
    | {"test_input_size", "test_crop_pct", "test_pool_size", "min_input_size", "pool_size"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """What is written besides safetensors and their config."""

    onnx: bool
    torch_export: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHeads:
    """A student with its projection heads, and what is said of each of them by its key."""

    student: StudentModel
    described: Mapping[str, Mapping[str, Any]]


def export_student(
    module: nn.Module,
    config: Student,
    *,
    num_classes: int | None,
    classes: Sequence[str],
    storage: Storage,
    formats: Formats,
    heads: KeptHeads | None = None,
    facts: CardFacts | None = None,
) -> dict[str, Any]:
    """Write the backbone `module` into `storage`; returns what was measured.

    For a timm model the folder opens with `timm.create_model("local-dir:<folder>", pretrained=True)` and nothing else.
    `classes` may be empty (unlabelled corpus). Nothing is written before every file gives what `module` gives.

    Raises:
        ModelError: the model cannot be exported as asked, or what was exported gives other outputs.
    """
    num_classes = getattr(module, "num_classes", num_classes)
    assert not classes or num_classes in (None, len(classes)), f"{num_classes} classes, {len(classes)} names"
    own = copy.deepcopy(module).to(device="cpu", dtype=torch.float32).eval()
    size_px, title = config.input.size_px, config.model.title
    document = _config_document(module, config, num_classes=num_classes, classes=classes)
    files = {WEIGHTS_NAME: weights_bytes(module), CONFIG_NAME: json.dumps(document, indent=2).encode()}
    measured: dict[str, Any] = {
        "bytes": len(files[WEIGHTS_NAME]),
        "num_classes": num_classes,
        "onnx_bytes": None,
        "onnx_max_abs_difference": None,
        "torch_export_max_abs_difference": None,
        "timm_max_abs_difference": None,
    }

    def difference(run: Any, what: str) -> float:
        return checked_difference(own, run, size_px=size_px, title=title, what=what)

    if isinstance(config.model, TimmModel):
        measured["timm_max_abs_difference"] = difference(_opened_by_timm(files), "the folder in timm")
    if formats.onnx:
        names = ("logits" if num_classes else "summary",)
        program = onnx_program(own, size_px=size_px, names=names, title=title)
        measured["onnx_max_abs_difference"] = difference(run_onnx(program), ONNX_NAME)
        measured["onnx_bytes"] = len(program)
        files[ONNX_NAME] = program
    if formats.torch_export:
        files[TORCH_NAME] = torch_program(own, size_px=size_px, title=title)
        measured["torch_export_max_abs_difference"] = difference(run_torch(files[TORCH_NAME]), TORCH_NAME)
    if heads is not None:
        files |= _head_files(heads, size_px=size_px, title=title)
    if facts is not None:
        card = model_card(
            facts,
            architecture=title,
            in_timm=isinstance(config.model, TimmModel),
            num_classes=num_classes or 0,
            files={name: FILES[name] for name in files},
            size_px=size_px,
        )
        files[CARD_NAME] = card.encode()
    for name, data in files.items():
        storage.write(name, data)
    return measured


def without_classifier(module: nn.Module, config: Student) -> nn.Module:
    """`module` with its classifier taken away, so that it gives its summary [B, D].

    Raises:
        ModelError: without the classifier it gives something else.
    """
    module = copy.deepcopy(module).eval()
    x_BCHW = torch.zeros(1, 3, *config.input.size_px)
    with torch.inference_mode():
        wanted_BD = model_outputs(module, x_BCHW, names=("summary",))["summary"]
        network: Any = module
        if not hasattr(network, "reset_classifier"):
            raise ModelError(
                f"{config.model.title}: its classifier, which no loss has trained, cannot be taken away to export it. "
                "Add a loss on logits, or use a student of timm's; its weights are beside its run.json."
            )
        network.reset_classifier(0)
        found_BD = module(x_BCHW)
    if found_BD.shape != wanted_BD.shape or not torch.allclose(found_BD, wanted_BD, rtol=1e-5, atol=1e-6):
        raise ModelError(
            f"{config.model.title} gives {list(found_BD.shape[1:])} without its classifier, but its summary is "
            f"{list(wanted_BD.shape[1:])}. Add a loss on logits, or use another student."
        )
    return module


def _opened_by_timm(files: Mapping[str, bytes]) -> Any:
    """The model as timm opens the folder, as a function of pixels."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        opened = build_model(
            TimmModel(kind="timm", name=f"local-dir:{folder}", pretrained=True), num_classes=None
        ).eval()
    return lambda x_BCHW: [opened(x_BCHW)]


class _Features(nn.Module):
    """A student's projected features, in the order of its heads."""

    def __init__(self, student: StudentModel) -> None:
        super().__init__()
        self.student = student

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        outputs = self.student(x_BCHW)
        return tuple(outputs[f"feature_{key}"] for key in self.student.heads)


def _head_files(heads: KeptHeads, *, size_px: tuple[int, int], title: str) -> dict[str, bytes]:
    own = _Features(copy.deepcopy(heads.student).to(device="cpu", dtype=torch.float32)).eval()
    program = torch_program(own, size_px=size_px, title=title)
    checked_difference(own, run_torch(program), size_px=size_px, title=title, what=FEATURES_NAME)
    described = [{"key": key, **heads.described[key]} for key in heads.student.heads]
    return {
        HEADS_NAME: weights_bytes(heads.student.heads),
        HEADS_CONFIG_NAME: json.dumps(described, indent=2).encode(),
        FEATURES_NAME: program,
    }


def _config_document(
    module: nn.Module, config: Student, *, num_classes: int | None, classes: Sequence[str]
) -> dict[str, Any]:
    network: Any = module
    document: dict[str, Any] = {"num_classes": getattr(network, "num_classes", num_classes)}
    if classes:
        document["label_names"] = list(classes)
    match config.model:
        case TimmModel():
            return document | _timm_document(network, config, config.model)
        case CifarResNet() | TorchvisionModel() | TorchHubModel() | TransformersModel() | PythonModel():
            return (
                document
                | config.model.model_dump(mode="json")
                | {"input": config.input.model_dump(mode="json", exclude={"kind_sizes_px"})}
            )
        case CheckpointModel():
            own, _ = exported_model(config.model)
            return _config_document(
                module, config.model_copy(update={"model": own}), num_classes=num_classes, classes=classes
            )
        case _:
            assert_never(config.model)


def _timm_document(network: Any, config: Student, model: TimmModel) -> dict[str, Any]:
    """As read by `timm.models._hub.load_model_config_from_path`."""
    source = {key: value for key, value in network.pretrained_cfg.items() if key not in SOURCE_KEYS}
    arguments = getattr(network, "pretrained_model_args", {}) | model.args
    if source.get("fixed_input_size"):
        # Else timm would size the position embedding by input_size below, which is the student's and may differ.
        arguments = {"img_size": list(source["input_size"][1:])} | arguments
    preprocessing = {
        "input_size": [3, *config.input.size_px],
        "mean": list(config.input.mean),
        "std": list(config.input.std),
        "interpolation": config.input.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": network.num_classes,
        "custom_load": False,
    }
    return {
        "architecture": source.pop("architecture"),
        "num_features": network.num_features,
        "model_args": arguments,
        "pretrained_cfg": source | preprocessing,
    }
