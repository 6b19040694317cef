"""Summary, spatial and logits from one forward pass, over families of networks."""

import pytest
import timm
import torch
from torch import nn

from kd_ray.config.models import CifarResNet, Model, TimmModel
from kd_ray.errors import ModelError
from kd_ray.models import OutputModel, build_model, model_outputs, output_shapes, parameter_count
from kd_ray.models.shapes import reached_parameters

NAMES = ("summary", "spatial", "logits")


def timm_model(name: str, **args: object) -> TimmModel:
    return TimmModel(kind="timm", name=name, args=args)


# timm's own miniatures of its families, and three real ones; sizes that each accepts.
MODELS: list[tuple[Model, int]] = [
    *((timm_model(name), 160) for name in timm.list_models("test_*")),
    (timm_model("resnet10t"), 64),
    (timm_model("mobilenetv3_small_050"), 64),
    (timm_model("vit_tiny_patch16_224", img_size=32, depth=2), 32),
    (timm_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2), 32),
    (timm_model("convnext_atto"), 64),
    (timm_model("resnet50_clip", img_size=64), 64),
    (CifarResNet(kind="cifar_resnet", depth=8), 32),
]
IDS = [getattr(model, "name", "cifar_resnet") for model, _ in MODELS]


def built(config: Model, *, num_classes: int | None = 5) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config, num_classes=num_classes).eval()


@pytest.mark.parametrize(("config", "size"), MODELS, ids=IDS)
def test_outputs_agree_with_the_model_and_with_the_planned_shapes(config: Model, size: int) -> None:
    module = built(config)
    x_BCHW = torch.randn(2, 3, size, size)
    with torch.no_grad():
        outputs = model_outputs(module, x_BCHW, names=NAMES)
        wanted_BK = module(x_BCHW)
        summary_BD = model_outputs(module, x_BCHW, names=["summary"])["summary"]
    assert list(outputs) == list(NAMES)
    torch.testing.assert_close(outputs["logits"], wanted_BK)
    torch.testing.assert_close(outputs["summary"], summary_BD)
    planned = output_shapes(config, size_px=(size, size), num_classes=5, names=NAMES, spatial_stage=-1)
    assert planned == {name: tuple(output.shape[1:]) for name, output in outputs.items()}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_classifier_of_summary_is_logits(name: str) -> None:
    module = built(timm_model(name))
    outputs = model_outputs(module, torch.randn(2, 3, 160, 160), names=("summary", "logits"))
    torch.testing.assert_close(module.get_classifier()(outputs["summary"]), outputs["logits"])


@pytest.mark.parametrize("config", [timm_model("resnet10t"), CifarResNet(kind="cifar_resnet", depth=8)], ids=str)
def test_mean_of_spatial_is_summary_for_resnets(config: Model) -> None:
    outputs = model_outputs(built(config), torch.randn(2, 3, 64, 64), names=("spatial", "summary"))
    torch.testing.assert_close(outputs["spatial"].mean(dim=(1, 2)), outputs["summary"])


def test_spatial_of_a_vit_is_its_normalised_patch_tokens_in_raster_order() -> None:
    module = built(timm_model("vit_tiny_patch16_224", img_size=(32, 48), depth=2))
    x_BCHW = torch.randn(2, 3, 32, 48)
    tokens_BLD = module.forward_features(x_BCHW)
    spatial_BHWD = model_outputs(module, x_BCHW, names=["spatial"])["spatial"]
    torch.testing.assert_close(spatial_BHWD, tokens_BLD[:, 1:].reshape(2, 2, 3, -1))


@pytest.mark.parametrize("config", [timm_model("resnet10t"), CifarResNet(kind="cifar_resnet", depth=8)], ids=str)
def test_earlier_stage_has_a_finer_grid(config: Model) -> None:
    x_BCHW = torch.randn(1, 3, 64, 64)
    module = built(config)
    last = model_outputs(module, x_BCHW, names=["spatial"])["spatial"]
    before = model_outputs(module, x_BCHW, names=["spatial"], spatial_stage=-2)["spatial"]
    assert before.shape[1:3] == (2 * last.shape[1], 2 * last.shape[2])


def test_one_forward_pass() -> None:
    module = built(timm_model("test_resnet"))
    calls: list[nn.Module] = []
    module.conv1.register_forward_hook(lambda m, *_: calls.append(m))
    model_outputs(module, torch.randn(1, 3, 64, 64), names=NAMES)
    assert len(calls) == 1


def test_head_runs_once_in_training() -> None:
    module = built(timm_model("mobilenetv3_small_050")).train()
    calls: list[nn.Module] = []
    module.conv_head.register_forward_hook(lambda m, *_: calls.append(m))
    model_outputs(module, torch.randn(2, 3, 64, 64), names=NAMES)
    assert len(calls) == 1


def test_no_hook_is_left_behind() -> None:
    module = built(timm_model("test_resnet"))
    model_outputs(module, torch.randn(1, 3, 64, 64), names=NAMES)
    assert not module.get_classifier()._forward_pre_hooks


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow(name: str) -> None:
    module = built(timm_model("test_vit"))
    model_outputs(module, torch.randn(2, 3, 160, 160), names=NAMES)[name].square().sum().backward()
    gradient = module.patch_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_model_without_classifier_has_no_logits() -> None:
    module = built(timm_model("test_resnet"), num_classes=0)
    with pytest.raises(ModelError, match="test_resnet has no logits; it has summary, spatial"):
        model_outputs(module, torch.randn(1, 3, 64, 64), names=NAMES)


def test_stage_out_of_range_is_named() -> None:
    with pytest.raises(ModelError, match="no spatial output of stage 9; it has 5 stages"):
        model_outputs(built(timm_model("resnet10t")), torch.randn(1, 3, 64, 64), names=["spatial"], spatial_stage=9)


def test_output_model_gives_the_same_and_keeps_the_state_reachable() -> None:
    module = built(timm_model("test_resnet"))
    wrapped = OutputModel(module, names=NAMES)
    x_BCHW = torch.randn(2, 3, 64, 64)
    wanted = model_outputs(module, x_BCHW, names=NAMES)
    assert all(torch.equal(output, wanted[name]) for name, output in wrapped(x_BCHW).items())
    assert wrapped.module.state_dict().keys() == module.state_dict().keys()


def test_output_model_without_logits_leaves_no_parameter_waiting_for_a_gradient() -> None:
    wrapped = OutputModel(built(timm_model("test_resnet")), names=["summary"])
    wrapped(torch.randn(2, 3, 64, 64))["summary"].sum().backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
    assert not wrapped.module.get_classifier().weight.requires_grad


@pytest.mark.parametrize(
    ("config", "size", "wanted"),
    [
        (
            timm_model("vit_large_patch14_dinov2", img_size=224),
            224,
            {"summary": (1024,), "spatial": (16, 16, 1024)},
        ),
        (
            timm_model("vit_large_patch14_dinov2", dynamic_img_size=True),
            224,
            {"summary": (1024,), "spatial": (16, 16, 1024)},
        ),
        (timm_model("convnext_tiny"), 224, {"summary": (768,), "spatial": (7, 7, 768)}),
        (timm_model("resnet50"), 160, {"summary": (2048,), "spatial": (5, 5, 2048)}),
        (timm_model("mobilenetv3_large_100"), 224, {"summary": (1280,), "spatial": (7, 7, 960)}),
    ],
    ids=["dinov2", "dinov2-dynamic", "convnext", "resnet50", "mobilenetv3"],
)
def test_shapes_of_large_models_need_no_weights(
    config: TimmModel, size: int, wanted: dict[str, tuple[int, ...]]
) -> None:
    pretrained = config.model_copy(update={"pretrained": True})
    names = ("summary", "spatial")
    found = output_shapes(pretrained, size_px=(size, size), num_classes=None, names=names, spatial_stage=-1)
    assert found == wanted


def test_input_size_that_the_model_refuses_is_explained() -> None:
    with pytest.raises(ModelError, match=r"vit_tiny_patch16_224 cannot give summary for 64x64 px.*dynamic_img_size"):
        output_shapes(
            timm_model("vit_tiny_patch16_224"), size_px=(64, 64), num_classes=2, names=["summary"], spatial_stage=-1
        )


def test_parameter_count_is_the_models() -> None:
    module = built(timm_model("test_vit"))
    assert parameter_count(timm_model("test_vit"), num_classes=5) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("names", [("logits",), ("summary",), ("spatial",), NAMES], ids=str)
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_resnet"])
def test_reached_parameters_are_those_that_get_a_gradient(name: str, names: tuple[str, ...]) -> None:
    module = built(timm_model(name))
    outputs = model_outputs(module, torch.randn(2, 3, 64, 64), names=names)
    torch.stack([output.sum() for output in outputs.values()]).sum().backward()
    wanted = {key for key, parameter in module.named_parameters() if parameter.grad is not None}
    found = reached_parameters(timm_model(name), size_px=(64, 64), num_classes=5, names=names, spatial_stage=-1)
    assert found == wanted
