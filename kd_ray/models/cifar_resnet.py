"""He et al.'s ResNets for 32x32 images, which neither timm nor torchvision has (arXiv 1512.03385, section 4.2).

Shape letters: B batch, C channels, H and W grid, D width, K classes.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64)
NUM_CLASSES = 10


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the option-A shortcut, which has no parameters.

    Where the shape changes the shortcut takes every second pixel and zero-pads the channels, half on each side.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.padding = (out_channels - in_channels) // 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's output, after the last ReLU."""
        residual_BCHW = functional.relu(self.bn1(self.conv1(x_BCHW)))
        residual_BCHW = self.bn2(self.conv2(residual_BCHW))
        return functional.relu(residual_BCHW + self._shortcut(x_BCHW))

    def _shortcut(self, x_BCHW: Tensor) -> Tensor:
        if self.stride == 1 and self.padding == 0:
            return x_BCHW
        strided_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        return functional.pad(strided_BCHW, (0, 0, 0, 0, self.padding, self.padding))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of `(depth - 2) / 6` blocks with 16, 32 and 64 channels, mean pooling, one linear layer.

    Without classes it gives what a classifier would get.
    Convolutions start from the initialisation of the paper's reference [13] (He et al. 2015, fan-in).
    """

    num_stages = len(WIDTHS)

    def __init__(self, depth: int, *, num_classes: int) -> None:
        super().__init__()
        assert depth % 6 == 2, f"depth must be 6 n + 2, got {depth}"
        num_blocks = (depth - 2) // 6
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], num_blocks=num_blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], num_blocks=num_blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], num_blocks=num_blocks, stride=2)
        self.linear: nn.Module = nn.Linear(WIDTHS[2], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward_stages(self, x_BCHW: Tensor) -> list[Tensor]:
        """The three stages' maps, [B, 16, H, W], [B, 32, H/2, W/2] and [B, 64, H/4, W/4]."""
        maps = [functional.relu(self.bn1(self.conv1(x_BCHW)))]
        for stage in (self.layer1, self.layer2, self.layer3):
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last stage's map."""
        return self.forward_stages(x_BCHW)[-1]

    def forward_head(self, features_BCHW: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Logits [B, K] of the last stage's map; with `pre_logits` what the classifier gets, [B, 64]."""
        pooled_BD = features_BCHW.mean(dim=(2, 3))
        return pooled_BD if pre_logits else self.linear(pooled_BD)

    def group_matcher(self, *, coarse: bool) -> dict[str, Any]:
        """Which parameters make a layer, as timm's models tell it: the stem, and each block or each stage."""
        return {"stem": r"^(?:conv|bn)1", "blocks": r"^layer(\d+)" if coarse else [(r"^layer(\d+)\.(\d+)", None)]}

    def reset_classifier(self, num_classes: int) -> None:
        """Another last layer, or with 0 classes none, under the name that timm gives it."""
        self.num_classes = num_classes
        self.linear = nn.Linear(WIDTHS[2], num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer, under the name that timm gives it."""
        return self.linear

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        return self.forward_head(self.forward_features(x_BCHW))


def _stage(in_channels: int, out_channels: int, *, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride=stride)
    rest = (BasicBlock(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *rest)
