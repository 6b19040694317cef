"""Vision towers of Hugging Face transformers from local folders, where that optional package is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kd_ray.config.networks import TransformersModel
from kd_ray.config.outputs import LastBlocks
from kd_ray.errors import ModelError
from kd_ray.models import build_model, code_digest, model_outputs, output_shapes

transformers = pytest.importorskip("transformers", reason="needs the optional package transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # another project's

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
TOWERS = ["ViT", "CLIPVision", "SiglipVision", "Dinov2", "Dinov2WithRegisters"]


def saved(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, f"{name}Config")(**SMALL)).eval()
    model.save_pretrained(folder, safe_serialization=True)
    return model


@pytest.mark.parametrize("name", TOWERS)
def test_outputs_are_the_towers_own(name: str, tmp_path: Path) -> None:
    wanted = saved(name, tmp_path)
    config = TransformersModel(kind="transformers", name=str(tmp_path), pretrained=True)
    module = build_model(config, num_classes=None).eval()
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs = model_outputs(module, x_BCHW, names=("summary", "spatial"))
        given = wanted(x_BCHW, output_hidden_states=True)
    torch.testing.assert_close(outputs["summary"], given.pooler_output)
    norm = wanted.post_layernorm if hasattr(wanted, "post_layernorm") else wanted.layernorm
    patches_BND = norm(given.hidden_states[-1])[:, -16:]
    torch.testing.assert_close(outputs["spatial"].flatten(1, 2), patches_BND)
    planned = output_shapes(config, size_px=(32, 32), num_classes=None, names=("summary", "spatial"), spatial_stage=-1)
    assert planned == {"summary": (16,), "spatial": (4, 4, 16)}


def test_last_blocks_of_dinov2_are_after_the_norm(tmp_path: Path) -> None:
    wanted = saved("Dinov2", tmp_path)
    source = LastBlocks(kind="last_blocks", count=2, mean=True)
    x_BCHW = torch.randn(2, 3, 32, 32)
    config = TransformersModel(kind="transformers", name=str(tmp_path), pretrained=True)
    module = build_model(config, num_classes=None).eval()
    with torch.no_grad():
        (found_BD,) = model_outputs(module, x_BCHW, names=["summary"], summary_from=source).values()
        states = [wanted.layernorm(each) for each in wanted(x_BCHW, output_hidden_states=True).hidden_states[-2:]]
    torch.testing.assert_close(found_BD, torch.cat([states[0][:, 0], states[1][:, 0], states[1][:, 1:].mean(1)], 1))


def test_siglip_has_no_class_token(tmp_path: Path) -> None:
    module = saved("SiglipVision", tmp_path)
    with pytest.raises(ModelError, match="no class token"):
        model_outputs(
            module,
            torch.randn(1, 3, 32, 32),
            names=["summary"],
            summary_from=LastBlocks(kind="last_blocks", count=1),
        )


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    import safetensors.torch

    saved("Dinov2", tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing and would be random \(layernorm\.weight\)"):
        build_model(TransformersModel(kind="transformers", name=str(tmp_path), pretrained=True), num_classes=None)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = saved("Dinov2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"weights cannot be loaded: .*safetensors"):
        build_model(TransformersModel(kind="transformers", name=str(tmp_path), pretrained=True), num_classes=None)


def test_digest_is_of_the_architecture_wherever_it_lies(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        saved("Dinov2", tmp_path / folder)
    saved("ViT", tmp_path / "c")
    a, b, c = (code_digest(TransformersModel(kind="transformers", name=str(tmp_path / name))) for name in "abc")
    assert a == b
    assert a != c
