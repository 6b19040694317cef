"""ESPNet (Mehta et al. 2018, arXiv 1803.06815) as a team would bring it: its own network, and a function for it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DILATIONS = (1, 2, 4, 8, 16)


class Branch(nn.Module):
    """A convolution without bias, then, each where it is asked for, BatchNorm and PReLU."""

    def __init__(self, width: int, out: int, kernel: int = 0, *, stride: int = 1, dilation: int = 1, act: bool = True):
        super().__init__()
        if kernel:
            padding = kernel // 2 * dilation
            self.conv = nn.Conv2d(width, out, kernel, stride, padding, dilation, bias=False)
        if act:
            self.bn = nn.BatchNorm2d(out, eps=1e-3)
            self.act = nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        """All of them that there are, in order."""
        for module in self.children():
            x = module(x)
        return x


class Pyramid(nn.Module):
    """Reduce, five dilated convolutions, sums of neighbours against gridding, one after another."""

    def __init__(self, width: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        narrow = out // 5
        self.c1 = Branch(width, narrow, 3 if stride == 2 else 1, stride=stride, act=False)
        for dilation in DILATIONS:
            each = out - 4 * narrow if dilation == 1 else narrow
            self.add_module(f"d{dilation}", Branch(narrow, each, 3, dilation=dilation, act=False))
        self.residual = stride == 1 and width == out
        if stride == 2:
            self.bn, self.act = nn.BatchNorm2d(out, eps=1e-3), nn.PReLU(out)
        else:
            self.bn = Branch(out, out)  # type: ignore[assignment]
            self.act = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """At half the size where the stride is 2."""
        reduced = self.c1(x)
        first, *rest = [getattr(self, f"d{dilation}")(reduced) for dilation in DILATIONS]
        sums: list[Tensor] = []
        for each in rest:
            sums.append(each + sums[-1] if sums else each)
        joined = torch.cat([first, *sums], dim=1)
        return self.act(self.bn(x + joined if self.residual else joined))


class Encoder(nn.Module):
    """Three levels, the input at each of the two smaller sizes beside them."""

    def __init__(self, classes: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.level1 = Branch(3, 16, 3, stride=2)
        self.b1 = Branch(19, 19)
        self.level2_0 = Pyramid(19, 64, stride=2)
        self.level2 = nn.Sequential(*(Pyramid(64, 64) for _ in range(blocks[0])))
        self.b2 = Branch(131, 131)
        self.level3_0 = Pyramid(131, 128, stride=2)
        self.level3 = nn.Sequential(*(Pyramid(128, 128) for _ in range(blocks[1])))
        self.b3 = Branch(256, 256)
        self.classifier = Branch(256, classes, 1, act=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The joined maps at 1/2 and 1/4, and scores at 1/8."""
        half = nn.functional.avg_pool2d(x, 3, 2, 1)
        quarter = nn.functional.avg_pool2d(half, 3, 2, 1)
        first = self.b1(torch.cat([self.level1(x), half], dim=1))
        start = self.level2_0(first)
        second = self.b2(torch.cat([self.level2(start), start, quarter], dim=1))
        start = self.level3_0(second)
        third = self.b3(torch.cat([start, self.level3(start)], dim=1))
        return [first, second, self.classifier(third)]


class EspNet(nn.Module):
    """Logits [B, K, H, W] of RGB pixels less their mean, over their deviation; BGR inside, over 255 once more."""

    def __init__(self, classes: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder(classes, blocks)
        self.up_l3 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, 2, bias=False))
        self.br = nn.BatchNorm2d(classes, eps=1e-3)
        self.level3_C = Branch(131, classes, 1, act=False)
        self.combine_l2_l3 = nn.Sequential(Branch(2 * classes, 2 * classes), Pyramid(2 * classes, classes))
        self.up_l2 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, 2, bias=False), Branch(classes, classes))
        self.conv = Branch(19 + classes, classes, 3)
        self.classifier = nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """At the size of the input, whose sides are multiples of 8."""
        first, second, third = self.encoder(x.flip(1))
        joined = torch.cat([self.level3_C(second), self.up_l3(self.br(third))], dim=1)
        return self.classifier(self.conv(torch.cat([self.up_l2(self.combine_l2_l3(joined)), first], dim=1)))


def espnet(classes: int = 12) -> nn.Module:
    """ESPNet with p = 2 and q = 8."""
    return EspNet(classes, (2, 8))
