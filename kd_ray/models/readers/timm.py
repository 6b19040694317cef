"""Networks with timm's interface: timm's own, and the CIFAR ResNets.

Shape letters: B batch, C channels, H and W grid, D width, K classes.
"""

from typing import Any

from torch import Tensor, nn

from kd_ray.models.cifar_resnet import CifarResNet
from kd_ray.models.readers.base import Asked, Given


class TimmReader:
    """Reads `forward_features`, `forward_head` and `forward_intermediates`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # Networks outside nn.Module's interface: timm's are untyped.
        self._backbone: Any = module

    def available(self) -> tuple[str, ...]:
        """Outputs that it has."""
        has = {
            "summary": True,
            "spatial": hasattr(self._module, "forward_intermediates") or isinstance(self._module, CifarResNet),
            "logits": getattr(self._module, "num_classes", 0) > 0,
        }
        return tuple(name for name, present in has.items() if present)

    def num_stages(self) -> int:
        """Stages or blocks whose maps it has."""
        if isinstance(self._module, CifarResNet):
            return self._module.num_stages
        return len(self._backbone.feature_info)

    def has_class_token(self) -> bool:
        """Whether its blocks have one."""
        return getattr(self._module, "cls_token", None) is not None and self._backbone.num_prefix_tokens > 0

    def read(self, x_BCHW: Tensor, asked: Asked) -> Given:
        """One forward pass."""
        features, maps, tokens = self._features(x_BCHW, asked)
        pooled_BD = logits_BK = None
        if asked.pooled and asked.logits:
            pooled_BD, logits_BK = _summary_and_logits(self._backbone, features)
        elif asked.pooled:
            pooled_BD = self._backbone.forward_head(features, pre_logits=True)
        elif asked.logits:
            logits_BK = self._backbone.forward_head(features)
        return Given(pooled_BD=pooled_BD, logits=logits_BK, maps=maps, tokens=tokens)

    def _features(self, x_BCHW: Tensor, asked: Asked) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """What `forward_head` takes, the maps of the stages, and the tokens of the last blocks."""
        if not asked.stages and not asked.num_blocks:
            return self._backbone.forward_features(x_BCHW), [], []
        if isinstance(self._module, CifarResNet):
            maps = self._module.forward_stages(x_BCHW)
            return maps[-1], [maps[stage] for stage in asked.stages], []
        last = self.num_stages()
        blocks = list(range(last - asked.num_blocks, last))
        indices = sorted({*blocks, *asked.stages})
        arguments = {"return_prefix_tokens": True} if asked.num_blocks else {}
        features, found = self._backbone.forward_intermediates(
            x_BCHW, indices=indices, norm=True, output_fmt="NCHW", **arguments
        )
        if not asked.num_blocks:
            return features, [found[indices.index(stage)] for stage in asked.stages], []
        of_index = dict(zip(indices, found, strict=True))
        tokens = [(of_index[i][1][:, 0], of_index[i][0].flatten(2).transpose(1, 2)) for i in blocks]
        return features, [of_index[stage][0] for stage in asked.stages], tokens


def _summary_and_logits(backbone: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Both from one pass through the head: a second would draw other dropout and update BatchNorm statistics again."""
    classifier = backbone.get_classifier()
    if not isinstance(classifier, nn.Linear):  # two classifiers, as distilled DeiT, or one with a norm inside
        return backbone.forward_head(features, pre_logits=True), backbone.forward_head(features)
    seen: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        logits_BK = backbone.forward_head(features)
    finally:
        handle.remove()
    if seen[0].ndim != 2:  # attention pooling that classifies every token and keeps the first, as CLIP's ResNets
        return backbone.forward_head(features, pre_logits=True), logits_BK
    return seen[0], logits_BK


def classifiers(module: nn.Module) -> tuple[nn.Module, ...]:
    """The layers that give logits; none where the network does not tell."""
    backbone: Any = module
    if not hasattr(module, "get_classifier"):
        return ()
    classifier = backbone.get_classifier()
    return tuple(classifier) if isinstance(classifier, tuple | list | nn.ModuleList) else (classifier,)
