"""What `kd_ray.distill` makes of a timm name: the pixels that the teacher was trained with."""

import pytest

from kd_ray.api import _values
from kd_ray.config.load import recipe_from_values
from kd_ray.config.recipe import Recipe
from kd_ray.errors import RecipeError
from kd_ray.models import output_shapes


def recipe_for(teacher: str) -> Recipe:
    values = _values("/photos", teacher, "mobilenetv3_small_100", out="/tmp/my run", size_px=224, views=4, epochs=10)
    return recipe_from_values(values, origins={}, default_origin="test")


@pytest.mark.parametrize(
    ("teacher", "mean", "width"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 0.485, 384),
        ("vit_base_patch16_siglip_224", 0.5, 768),
        ("convnext_tiny.fb_in22k_ft_in1k", 0.485, 768),
    ],
)
def test_a_timm_name_brings_its_own_normalisation_and_takes_the_size(teacher: str, mean: float, width: int) -> None:
    recipe = recipe_for(teacher)
    assert recipe.teacher is not None
    assert recipe.teacher.input.mean[0] == mean
    model = recipe.teacher.model
    shapes = output_shapes(model, size_px=(224, 224), num_classes=None, names=("summary",), spatial_stage=-1)
    assert shapes == {"summary": (width,)}


def test_a_folder_name_with_a_space_still_names_the_run() -> None:
    assert recipe_for("resnet50").name == "my-run"


def test_a_model_without_pretrained_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match="no pretrained model 'resnet10x'"):
        recipe_for("resnet10x")
