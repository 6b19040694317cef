"""Small networks of kinds that are read from files: a repository, a program, a package, an exported student."""

import textwrap
from pathlib import Path

import torch
from torch import Tensor, nn

HUBCONF = '''
dependencies = ["torch"]

from backbones import TinyDino


def tiny_dino(*, pretrained: bool = True, depth: int = 3):
    """As dinov2_vits14 is called."""
    if pretrained:
        raise RuntimeError("would download")
    return TinyDino(depth)


def classifier(num_classes=7):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
'''

# the interface of facebookresearch/dinov2's DinoVisionTransformer: forward gives head(class token after the norm)
BACKBONES = """
import torch
from torch import nn


class TinyDino(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.patch_size, self.n_blocks, self.num_register_tokens = 8, depth, 2
        self.patch_embed = nn.Conv2d(3, 16, 8, stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.register_tokens = nn.Parameter(torch.randn(1, 2, 16))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(depth))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Identity()

    def states(self, x):
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        prefix = torch.cat([self.cls_token, self.register_tokens], dim=1).expand(len(x), -1, -1)
        tokens, found = torch.cat([prefix, patches], dim=1), []
        for block in self.blocks:
            tokens = block(tokens)
            found.append(tokens)
        return found

    def get_intermediate_layers(self, x, n=1, reshape=False, return_class_token=False, norm=True):
        states = self.states(x)
        taken = range(len(states) - n, len(states)) if isinstance(n, int) else n
        found = [self.norm(states[i]) if norm else states[i] for i in taken]
        return tuple((each[:, 3:], each[:, 0]) if return_class_token else each[:, 3:] for each in found)

    def forward(self, x):
        return self.head(self.norm(self.states(x)[-1])[:, 0])
"""


def write_repository(folder: Path) -> Path:
    """A folder with hubconf.py, in the layout of DINOv2's repository."""
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "backbones.py").write_text(textwrap.dedent(BACKBONES))
    return folder


class SmallNet(nn.Module):
    """A convolution and a classifier, with BatchNorm between, which shows whether it is in evaluation mode."""

    def __init__(self, *, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean = torch.randn(8)
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """All three outputs."""
        map_BDHW = self.norm(self.stem(x_BCHW)).relu()
        summary_BD = map_BDHW.mean(dim=(2, 3))
        return {
            "summary": summary_BD,
            "spatial": map_BDHW.permute(0, 2, 3, 1),
            "logits": self.linear(summary_BD),
        }


class SmallClassifier(SmallNet):
    """Its logits alone."""

    def forward(self, x_BCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Logits."""
        return super().forward(x_BCHW)["logits"]


def small_net(num_classes: int = 5) -> SmallNet:
    """As a team would write it: a function that gives a network."""
    torch.manual_seed(0)
    return SmallNet(num_classes=num_classes)


def small_classifier() -> SmallClassifier:
    """Always for five classes."""
    torch.manual_seed(0)
    return SmallClassifier()


def dense_net() -> nn.Module:
    """One logit vector for each place."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 6, 4, stride=4)


def not_a_network() -> str:
    """A mistake."""
    return "weights.pt"
