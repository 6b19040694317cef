"""Building networks by kind, and what a user sees when it cannot be done."""

import pytest
import timm
import torch

from kd_ray.config.models import TimmModel
from kd_ray.errors import ModelError
from kd_ray.models import build_model


def timm_model(name: str, **args: object) -> TimmModel:
    return TimmModel(kind="timm", name=name, args=args)


def test_number_of_classes_is_passed_on() -> None:
    assert build_model(timm_model("test_resnet"), num_classes=7)(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_no_number_of_classes_keeps_the_models_own() -> None:
    model = build_model(timm_model("test_resnet"), num_classes=None)
    assert model.num_classes == timm.create_model("test_resnet").num_classes


def test_arguments_reach_timm() -> None:
    model = build_model(timm_model("test_vit", img_size=32, patch_size=4), num_classes=3)
    assert model.patch_embed.grid_size == (8, 8)


def test_unknown_name_gives_close_matches() -> None:
    with pytest.raises(ModelError, match=r"no model 'restnet18'; did you mean .*resnet18"):
        build_model(timm_model("restnet18"), num_classes=3)


def test_name_like_nothing_says_where_names_are() -> None:
    with pytest.raises(ModelError, match=r"timm\.list_models"):
        build_model(timm_model("qqqqqqqqqqqq"), num_classes=3)


def test_argument_that_the_model_does_not_take_is_named() -> None:
    with pytest.raises(ModelError, match="no_such_argument"):
        build_model(timm_model("test_resnet", no_such_argument=1), num_classes=3)


def test_number_of_classes_in_args_is_refused() -> None:
    with pytest.raises(ModelError, match="comes from the corpus"):
        build_model(timm_model("test_resnet", num_classes=5), num_classes=3)


def test_pretrained_without_published_weights_is_a_model_error() -> None:
    config = TimmModel(
        kind="timm", name="resnet10t", pretrained=True, args={"pretrained_cfg_overlay": {"url": "", "hf_hub_id": ""}}
    )
    with pytest.raises(ModelError, match="No pretrained weights"):
        build_model(config, num_classes=None)
