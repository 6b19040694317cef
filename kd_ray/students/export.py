"""A trained student as files that other programs open: safetensors and config.json for timm, and ONNX."""

import copy
import json
from collections.abc import Sequence
from typing import Any, assert_never

import onnxruntime
import torch
from torch import Tensor, nn

from kd_ray.config.models import CifarResNet, TimmModel
from kd_ray.config.student import Student
from kd_ray.errors import ModelError
from kd_ray.models.weights import weights_bytes
from kd_ray.storage import Storage

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
ONNX_NAME = "model.onnx"
# Sums in another order differ by about 1e-6 of the logits' scale in float32; a wrong graph by about 1.
ONNX_TOLERANCE = 1e-4
TRACED_BATCH = 2
CHECKED_BATCH = 3
# Where a checkpoint came from and how that one was tested: not true of the student.
SOURCE_KEYS = frozenset(
    {"url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "state_dict", "license", "description"}
    | {"origin_url", "paper_name", "paper_ids", "notes", "label_offset", "label_names", "label_descriptions"}
    | {"test_input_size", "test_crop_pct", "test_pool_size", "min_input_size", "pool_size"}
)


def export_student(
    module: nn.Module, config: Student, *, num_classes: int | None, classes: Sequence[str], storage: Storage, onnx: bool
) -> dict[str, Any]:
    """Write the backbone `module` into `storage`; returns what was measured.

    For a timm model the folder opens with `timm.create_model("local-dir:<folder>", pretrained=True)` and nothing else.
    `classes` may be empty (unlabelled corpus). model.onnx takes "pixels" [B, 3, H, W], already normalised, any B.

    Raises:
        ModelError: the model cannot be exported to ONNX, or the ONNX model gives other logits.
    """
    assert not classes or num_classes in (None, len(classes)), f"{num_classes} classes, {len(classes)} names"
    weights = weights_bytes(module)
    document = _config_document(module, config, classes=classes)
    measured: dict[str, Any] = {"bytes": len(weights), "onnx_bytes": None, "onnx_max_abs_difference": None}
    storage.write(WEIGHTS_NAME, weights)
    storage.write(CONFIG_NAME, json.dumps(document, indent=2).encode())
    if onnx:
        own = copy.deepcopy(module).to(device="cpu", dtype=torch.float32).eval()
        program = _onnx_bytes(own, config)
        measured["onnx_max_abs_difference"] = _checked_difference(own, program, config)
        measured["onnx_bytes"] = len(program)
        storage.write(ONNX_NAME, program)
    return measured


def _config_document(module: nn.Module, config: Student, *, classes: Sequence[str]) -> dict[str, Any]:
    network: Any = module
    document: dict[str, Any] = {"num_classes": network.num_classes}
    if classes:
        document["label_names"] = list(classes)
    match config.model:
        case TimmModel():
            return document | _timm_document(network, config, config.model)
        case CifarResNet():
            return (
                document
                | config.model.model_dump(mode="json")
                | {"input": config.input.model_dump(mode="json", exclude={"kind_sizes_px"})}
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


def _onnx_bytes(module: nn.Module, config: Student) -> bytes:
    try:
        program = torch.onnx.export(
            module,
            (_random_input(config, batch=TRACED_BATCH),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(
            f"{config.model.title} cannot be exported to ONNX: {error}. Set onnx: false, or use another student."
        ) from error
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


@torch.inference_mode()
def _checked_difference(module: nn.Module, program: bytes, config: Student) -> float:
    """Largest absolute difference between the logits of ONNX Runtime and of PyTorch, on a batch of another size."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    x_BCHW = _random_input(config, batch=CHECKED_BATCH)
    wanted_BK = module(x_BCHW)
    (found_BK,) = session.run(["logits"], {"pixels": x_BCHW.numpy()})
    difference = float((torch.from_numpy(found_BK) - wanted_BK).abs().max())
    scale = float(wanted_BK.abs().max())
    if not difference <= ONNX_TOLERANCE * scale:  # so that NaN fails
        raise ModelError(
            f"{config.model.title}: the ONNX model's logits differ from PyTorch's by {difference:.3g}, more than "
            f"{ONNX_TOLERANCE} of their scale {scale:.3g}; nothing was written to {ONNX_NAME}. "
            f"Set onnx: false, or use another student."
        )
    return difference


def _random_input(config: Student, *, batch: int) -> Tensor:
    return torch.randn(batch, 3, *config.input.size_px, generator=torch.Generator().manual_seed(0))
