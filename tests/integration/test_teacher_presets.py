"""The teachers of conf/parts/teacher: loaded through a recipe, and the very preprocessing that timm knows of each."""

from pathlib import Path

import pytest
import timm
import yaml

from kd_ray.config.load import load_recipe
from kd_ray.config.models import Input, TimmModel
from kd_ray.models import output_shapes
from kd_ray.models.preprocessing import differences_from_training
from pipelines.inputs import unlike_training
from tests.support.recipes import write

PARTS = Path(__file__).parents[2] / "conf" / "parts" / "teacher"
PRESETS = sorted(PARTS.glob("*.yaml"))
BUILT_IN_SECONDS = {"dinov2_small", "dinov3_small", "siglip_base", "convnextv2_tiny", "clip_vit_b16"}
RECIPE = """
extends: {preset}
name: preset
out: {out}
corpus: {{kind: folder, uri: /images, packed_uri: /corpus}}
labels: {{kind: none}}
views: {{count: 1, policy: weak}}
cache: {{uri: /cache}}
student: {{model: {{kind: cifar_resnet, depth: 8}}, input: {{size_px: [32, 32]}}}}
train: {{losses: [{{kind: feature, output: summary}}], epochs: 1, global_batch_size: 8}}
"""


def test_the_field_is_covered() -> None:
    names = {path.stem for path in PRESETS}
    assert {f"dinov2_{size}" for size in ("small", "base", "large", "giant")} <= names
    assert {"dinov3_base", "siglip_base", "siglip2_base", "clip_vit_b16", "convnextv2_base", "vit_base_augreg"} <= names


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_is_what_timm_knows_of_the_weights(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, RECIPE.format(preset=path, out=tmp_path)))
    assert recipe.teacher is not None
    model, input = recipe.teacher.model, recipe.teacher.input
    assert isinstance(model, TimmModel)
    assert model.pretrained
    known = timm.get_pretrained_cfg(model.name)
    assert model.name == f"{known.architecture}.{known.tag}"
    assert (input.mean, input.std, input.interpolation) == (known.mean, known.std, known.interpolation)
    resized = {"img_size": input.size_px[0]} if tuple(known.input_size[1:]) != tuple(input.size_px) else {}
    assert model.args == resized
    warnings = unlike_training(recipe)
    assert len(warnings) == len(resized)
    assert all("teacher.input" in warning and "in training" in warning for warning in warnings)


@pytest.mark.parametrize("name", sorted(BUILT_IN_SECONDS))
def test_preset_gives_its_outputs_at_its_size(name: str) -> None:
    teacher = yaml.safe_load((PARTS / f"{name}.yaml").read_text())["teacher"]
    config = TimmModel.model_validate(teacher["model"])
    shapes = output_shapes(
        config,
        size_px=tuple(teacher["input"]["size_px"]),
        num_classes=None,
        names=list(teacher["outputs"]),
        spatial_stage=-1,
    )
    assert all(shape[-1] > 1 for shape in shapes.values())


def test_other_preprocessing_than_in_training_is_told_with_the_values() -> None:
    config = TimmModel(kind="timm", name="vit_base_patch16_clip_224.openai", pretrained=True)
    found = differences_from_training(config, Input(size_px=(196, 224), std=(0.26862954, 0.26130258, 0.27577711)))
    assert found == [
        "size_px is 196×224 (224×224 in training)",
        "mean is [0.485, 0.456, 0.406] ([0.48145466, 0.4578275, 0.40821073] in training)",
    ]
    random = config.model_copy(update={"pretrained": False})
    assert differences_from_training(random, Input(size_px=(196, 224))) == []
