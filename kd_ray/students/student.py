"""The model that is trained: a backbone, and one projection head for each feature loss.

Shape letters: B batch, C channels, H and W pixels or grid, D width, K classes.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from kd_ray.config.models import Student
from kd_ray.config.train import FeatureLoss, Loss
from kd_ray.models import build_model, load_weights, model_outputs, output_shapes
from kd_ray.models.shapes import reached_parameters
from kd_ray.students.heads import build_head, resample_grid


class StudentModel(nn.Module):
    """Gives "logits" [B, K] and, for each feature loss i, "feature_{i}" [B, D] or [B, H, W, D], shaped as its target.

    `heads` and `grids` are keyed by the loss's index as a string, `sources` says which backbone output each head reads.
    The backbone runs once. What is exported is `backbone` alone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        heads: Mapping[str, nn.Module],
        sources: Mapping[str, str],
        grids: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self._sources = dict(sources)
        self._grids = dict(grids)
        self._names = _backbone_outputs(sources.values())

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Logits and projected features, by name."""
        found = model_outputs(self.backbone, x_BCHW, names=self._names)
        outputs = {"logits": found["logits"]}
        for key, head in self.heads.items():
            features = found[self._sources[key]]
            if key in self._grids:
                features = resample_grid(features, self._grids[key])
            outputs[f"feature_{key}"] = head(features)
        return outputs

    def no_weight_decay(self) -> set[str]:
        """The backbone's parameters that timm exempts from decay (position embeddings, class tokens)."""
        of_backbone: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in of_backbone}


def build_student(
    config: Student, *, num_classes: int | None, losses: Sequence[Loss], target_shapes: Mapping[int, tuple[int, ...]]
) -> StudentModel:
    """The student with a head for each feature loss; `target_shapes` maps its index in `losses` to (D,) or (H, W, D).

    Backbone parameters that no loss reaches (the classifier, where all losses are on features) require no gradients:
    DistributedDataParallel would wait for them for ever.

    Raises:
        ModelError: the model cannot be built, lacks an output that a loss needs, or does not take its input size.
        WeightsError: `config.weights` does not fit.
    """
    feature_losses = {str(i): loss for i, loss in enumerate(losses) if isinstance(loss, FeatureLoss)}
    sources = {key: loss.output for key, loss in feature_losses.items()}
    assert set(map(int, sources)) == set(target_shapes), f"{sorted(sources)} against {sorted(target_shapes)}"
    shapes = output_shapes(
        config.model,
        size_px=config.input.size_px,
        num_classes=num_classes,
        names=_backbone_outputs(sources.values()),
        spatial_stage=-1,
    )
    # before the heads, which draw random numbers too: one seed gives one backbone whatever the losses
    backbone = build_model(config.model, num_classes=num_classes)
    if config.weights is not None:
        load_weights(backbone, config.weights)
    heads = {
        key: build_head(loss.head, in_width=shapes[loss.output][-1], out_width=target_shapes[int(key)][-1])
        for key, loss in feature_losses.items()
    }
    grids = {key: _grid(target_shapes[int(key)]) for key, source in sources.items() if source == "spatial"}
    _freeze_unreached(backbone, config, num_classes=num_classes, losses=losses)
    return StudentModel(backbone, heads=heads, sources=sources, grids=grids)


def _backbone_outputs(sources: Iterable[str]) -> tuple[str, ...]:
    return ("logits", *sorted(set(sources)))


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    height, width, _ = shape
    return height, width


def _freeze_unreached(backbone: nn.Module, config: Student, *, num_classes: int | None, losses: Sequence[Loss]) -> None:
    used = {loss.output if isinstance(loss, FeatureLoss) else "logits" for loss in losses}
    reached = reached_parameters(
        config.model, size_px=config.input.size_px, num_classes=num_classes, names=sorted(used), spatial_stage=-1
    )
    for name, parameter in backbone.named_parameters():
        if name not in reached:
            parameter.requires_grad = False
