"""Where in a network outputs are read: class tokens, last blocks, stages, named layers; against timm's own."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kd_ray.config.models import TimmModel
from kd_ray.config.outputs import LastBlocks, Layer, SummarySource, Token
from kd_ray.errors import ModelError
from kd_ray.models import OutputModel, build_model, model_outputs, output_shapes

CLS, CLS_MEAN = Token(kind="cls"), Token(kind="cls_mean")


def timm_model(name: str, **args: Any) -> TimmModel:
    return TimmModel(kind="timm", name=name, args=args)


VIT = timm_model("vit_tiny_patch16_224", img_size=(32, 48), depth=4)
REGISTERS = timm_model("vit_small_patch14_reg4_dinov2", img_size=28, depth=3, embed_dim=48, num_heads=3)
SIGLIP = timm_model("vit_base_patch16_siglip_224", img_size=32, depth=2, embed_dim=48, num_heads=3)


def built(config: TimmModel) -> Any:
    torch.manual_seed(0)
    module = build_model(config, num_classes=7).eval()
    for each in module.modules():  # as trained: else all norms are alike and which one is taken cannot be seen
        if isinstance(each, nn.LayerNorm):
            nn.init.normal_(each.weight, 1.0, 0.2)
            nn.init.normal_(each.bias, 0.0, 0.2)
    return module


def pixels(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def tokens_of_blocks(module: Any, x_BCHW: Tensor) -> list[Tensor]:
    """The tokens after each block and the final norm, from timm's own parts."""
    found = []
    tokens = module.norm_pre(module._pos_embed(module.patch_embed(x_BCHW)))
    for block in module.blocks:
        tokens = block(tokens)
        found.append(module.norm(tokens))
    return found


@pytest.mark.parametrize(("config", "size"), [(VIT, (32, 48)), (REGISTERS, (28, 28))], ids=["vit", "registers"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mean", [False, True])
def test_last_blocks_are_class_tokens_after_the_norm(
    config: TimmModel, size: tuple[int, int], count: int, mean: bool
) -> None:
    module, x_BCHW = built(config), pixels(*size)
    source = LastBlocks(kind="last_blocks", count=count, mean=mean)
    (found_BD,) = model_outputs(module, x_BCHW, names=["summary"], summary_from=source).values()
    blocks = tokens_of_blocks(module, x_BCHW)
    wanted = [tokens[:, 0] for tokens in blocks[-count:]]
    if mean:
        wanted.append(blocks[-1][:, module.num_prefix_tokens :].mean(dim=1))
    torch.testing.assert_close(found_BD, torch.cat(wanted, dim=1))


def test_the_final_norm_matters() -> None:
    """timm's own default leaves it out."""
    module, x_BCHW = built(VIT), pixels(32, 48)
    (found_BD,) = model_outputs(module, x_BCHW, names=["summary"], summary_from=CLS).values()
    bare = module.forward_intermediates(x_BCHW, indices=1, return_prefix_tokens=True, intermediates_only=True)
    assert not torch.allclose(found_BD, bare[0][1][:, 0], atol=0.1)


def test_all_sources_from_one_pass() -> None:
    module, x_BCHW = built(VIT), pixels(32, 48)
    blocks = tokens_of_blocks(module, x_BCHW)
    calls: list[int] = []
    module.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    names = ("summary", "spatial", "logits")
    outputs = model_outputs(module, x_BCHW, names=names, summary_from=CLS_MEAN, spatial_stage=1)
    assert len(calls) == 1
    torch.testing.assert_close(outputs["logits"], module(x_BCHW))
    torch.testing.assert_close(outputs["spatial"], blocks[1][:, 1:].reshape(2, 2, 3, -1))
    torch.testing.assert_close(outputs["summary"], torch.cat([blocks[-1][:, 0], blocks[-1][:, 1:].mean(1)], dim=1))


@pytest.mark.parametrize("stage", [0, 2, -2])
def test_stages_of_a_convolutional_network_are_timms(stage: int) -> None:
    config = timm_model("resnet10t")
    module, x_BCHW = built(config), pixels(64, 96)
    found = model_outputs(module, x_BCHW, names=("spatial", "logits"), spatial_stage=stage)
    wanted = timm.create_model("resnet10t", features_only=True).eval()
    wanted.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(found["spatial"], wanted(x_BCHW)[stage].permute(0, 2, 3, 1))
    torch.testing.assert_close(found["logits"], module(x_BCHW))


LAYERS: list[tuple[TimmModel, tuple[int, int], Layer, tuple[int, ...]]] = [
    (VIT, (32, 48), Layer(kind="layer", layer="blocks.1.mlp", prefix_tokens=1), (2, 3, 192)),
    (REGISTERS, (28, 28), Layer(kind="layer", layer="blocks.2", prefix_tokens=5), (2, 2, 48)),
    (timm_model("resnet10t"), (64, 96), Layer(kind="layer", layer="layer2.0.conv1"), (8, 12, 128)),
    (
        timm_model("swin_tiny_patch4_window7_224", img_size=64, embed_dim=24, depths=(1, 1, 1, 1)),
        (64, 64),
        Layer(kind="layer", layer="layers.1", channels_last=True),
        (8, 8, 48),
    ),
]


@pytest.mark.parametrize(("config", "size", "layer", "shape"), LAYERS, ids=lambda value: getattr(value, "layer", None))
def test_named_layer_as_a_grid(config: TimmModel, size: tuple[int, int], layer: Layer, shape: tuple[int, ...]) -> None:
    module, x_BCHW = built(config), pixels(*size)
    seen: list[Tensor] = []
    module.get_submodule(layer.layer).register_forward_hook(lambda _m, _i, given: seen.append(given))
    outputs = model_outputs(module, x_BCHW, names=("spatial", "logits"), spatial_from=layer)
    (given,) = seen
    flat = given.flatten(2).transpose(1, 2) if given.ndim == 4 and not layer.channels_last else given.flatten(1, -2)
    torch.testing.assert_close(outputs["spatial"].flatten(1, 2), flat[:, layer.prefix_tokens :])
    torch.testing.assert_close(outputs["logits"], module(x_BCHW))
    planned = output_shapes(
        config, size_px=size, num_classes=None, names=["spatial"], spatial_stage=-1, spatial_from=layer
    )
    assert planned == {"spatial": shape}


def test_named_layer_as_a_summary() -> None:
    module, x_BCHW = built(timm_model("resnet10t")), pixels(64, 64)
    source = Layer(kind="layer", layer="global_pool")
    found = model_outputs(module, x_BCHW, names=["summary"], summary_from=source)
    torch.testing.assert_close(found, model_outputs(module, x_BCHW, names=["summary"]))


def test_output_model_reads_the_same() -> None:
    module, x_BCHW = built(VIT), pixels(32, 48)
    wanted = model_outputs(module, x_BCHW, names=["summary"], summary_from=CLS_MEAN)
    torch.testing.assert_close(OutputModel(module, names=["summary"], summary_from=CLS_MEAN)(x_BCHW), wanted)


REFUSALS: list[tuple[TimmModel, SummarySource, Layer | None, str]] = [
    (SIGLIP, CLS, None, r"no class token in its blocks, which outputs\.summary_from asks for"),
    (timm_model("resnet10t"), CLS_MEAN, None, "no class token"),
    (SIGLIP, LastBlocks(kind="last_blocks", count=1), None, "no class token"),
    (VIT, LastBlocks(kind="last_blocks", count=9), None, r"has 4 blocks; outputs\.summary_from\.count asks for 9"),
    (VIT, Token(kind="pooled"), Layer(kind="layer", layer="blocks.9"), "blocks has no '9'; it has 0, 1, 2, 3"),
    (VIT, Token(kind="pooled"), Layer(kind="layer", layer="blocks.1"), r"gives 7 tokens, .* \(prefix_tokens\)"),
    (VIT, Layer(kind="layer", layer="blocks.1"), None, r"gives \[B, 7, 192\], not one vector"),
    (VIT, Token(kind="pooled"), Layer(kind="layer", layer="head"), r"gives \[B, 1000\], not \[B, C, H, W\]"),
]


@pytest.mark.parametrize(
    ("config", "summary_from", "spatial_from", "told"), REFUSALS, ids=[each[3] for each in REFUSALS]
)
def test_what_a_network_lacks_is_told_before_any_work(
    config: TimmModel, summary_from: SummarySource, spatial_from: Layer | None, told: str
) -> None:
    size = (32, 48) if config == VIT else (32, 32)
    with pytest.raises(ModelError, match=told):
        output_shapes(
            config,
            size_px=size,
            num_classes=None,
            names=("summary", "spatial", "logits") if config == VIT else ("summary",),
            spatial_stage=-1,
            summary_from=summary_from,
            spatial_from=spatial_from,
        )


def test_layer_that_is_not_run_is_told() -> None:
    with pytest.raises(ModelError, match="layer 'head' is not run in a forward pass that gives these outputs"):
        model_outputs(
            built(VIT),
            pixels(32, 48),
            names=("summary", "spatial"),
            summary_from=Layer(kind="layer", layer="head"),
        )
