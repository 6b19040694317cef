"""The CIFAR ResNets against the paper's table 6 and the published checkpoints' keys."""

import pytest
import torch
from torch.nn import functional

from kd_ray.config.models import CifarResNet as Config
from kd_ray.models import build_model, parameter_count
from kd_ray.models.cifar_resnet import BasicBlock, CifarResNet


@pytest.mark.parametrize(("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")])
def test_parameter_count_is_the_papers(depth: int, millions: str) -> None:
    count = parameter_count(Config(kind="cifar_resnet", depth=depth), num_classes=10)
    decimals = len(millions.split(".")[1])
    # The paper cuts 0.856 to 0.85 and 1.73 to 1.7.
    assert abs(count / 1e6 - float(millions)) < 10**-decimals


def test_keys_are_those_of_published_checkpoints() -> None:
    def norm(name: str) -> set[str]:
        return {f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    wanted = {"conv1.weight", "linear.weight", "linear.bias"} | norm("bn1")
    for stage in (1, 2, 3):
        for block in range(3):
            for i in (1, 2):
                wanted |= {f"layer{stage}.{block}.conv{i}.weight"} | norm(f"layer{stage}.{block}.bn{i}")
    assert set(CifarResNet(20, num_classes=10).state_dict()) == wanted


def test_num_classes_none_is_ten() -> None:
    model = build_model(Config(kind="cifar_resnet", depth=8), num_classes=None)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_stages_halve_the_grid_and_double_the_width() -> None:
    maps = CifarResNet(8, num_classes=10).eval().forward_stages(torch.zeros(2, 3, 32, 32))
    assert [tuple(stage.shape) for stage in maps] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]


def test_shortcut_takes_every_second_pixel_and_pads_half_the_channels_on_each_side() -> None:
    block = BasicBlock(2, 4, stride=2).eval()
    for convolution in (block.conv1, block.conv2):
        torch.nn.init.zeros_(convolution.weight)
    x_BCHW = torch.rand(1, 2, 4, 4)
    out_BCHW = block(x_BCHW)
    assert torch.equal(out_BCHW[:, 1:3], x_BCHW[:, :, ::2, ::2])
    assert torch.count_nonzero(out_BCHW[:, [0, 3]]) == 0


def test_block_without_change_of_shape_is_relu_of_the_sum() -> None:
    block = BasicBlock(3, 3, stride=1).eval()
    x_BCHW = torch.randn(1, 3, 5, 5)
    residual = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x_BCHW)))))
    assert torch.equal(block(x_BCHW), functional.relu(x_BCHW + residual))
