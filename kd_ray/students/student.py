"""The model that is trained: a backbone, and one projection head for each feature loss.

Shape letters: B batch, C channels, H and W pixels or grid, D width, K classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_ray.config.losses import Loss, OnFeatures
from kd_ray.config.student import Student
from kd_ray.models import build_model, load_weights, model_outputs, output_shapes
from kd_ray.models.outputs import stage_output
from kd_ray.models.readers.base import LAST_STAGE
from kd_ray.models.shapes import reached_parameters
from kd_ray.students.grids import WHOLE, Cover, TargetGrid
from kd_ray.students.heads import build_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a head reads: the backbone's `output` of its last stage, or the map of another one."""

    output: str
    stage: int = LAST_STAGE

    @property
    def name(self) -> str:
        """Among the backbone's outputs."""
        return self.output if self.stage == LAST_STAGE else stage_output(self.stage)


class StudentModel(nn.Module):
    """Gives "logits" [B, K] and, for each feature loss i, "feature_{i}" [B, D] or [B, H, W, D], shaped as its target;
    without a head it is as wide as the backbone.

    `heads` and `grids` are keyed by the loss's index as a string, `sources` says which backbone output each head reads;
    there are `grids` for each kind of views; a head without one that reads a map gets the mean of its cells. The
    backbone runs once for each size of views. What `balance` gives when called is among the outputs. What is exported
    is `backbone` alone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        heads: Mapping[str, nn.Module],
        sources: Mapping[str, "Source"],
        grids: Sequence[Mapping[str, TargetGrid]],
        balance: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.balance = balance
        self._sources = dict(sources)
        self._grids = [dict(each) for each in grids]
        self._names, self._stages = _needed(sources.values(), logits=True)

    def forward(self, x: Tensor | Sequence[Tensor]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Logits and projected features, by name: of views [B, C, H, W] of the first kind, or for those of each kind.

        Views of equal size go through the backbone together, whatever their kind (as in DINO's MultiCropWrapper).
        """
        if isinstance(x, Tensor):
            return self._project(self._backbone_outputs(x), self._grids[0])
        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, x_BCHW in enumerate(x):
            by_size.setdefault(tuple(x_BCHW.shape[2:]), []).append(number)
        outputs: dict[int, dict[str, Tensor]] = {}
        for numbers in by_size.values():
            joined = x[numbers[0]] if len(numbers) == 1 else torch.cat([x[number] for number in numbers])
            found = self._backbone_outputs(joined)
            lengths = [len(x[number]) for number in numbers]
            split = {name: torch.split(each, lengths) for name, each in found.items()}
            for place, number in enumerate(numbers):
                of_kind = {name: parts[place] for name, parts in split.items()}
                outputs[number] = self._project(of_kind, self._grids[number])
        return [outputs[number] for number in range(len(x))]

    def _backbone_outputs(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        return model_outputs(self.backbone, x_BCHW, names=self._names, stages=self._stages)

    def _project(self, found: Mapping[str, Tensor], grids: Mapping[str, TargetGrid]) -> dict[str, Tensor]:
        outputs = {"logits": found["logits"], **(self.balance() if self.balance is not None else {})}
        for key, head in self.heads.items():
            features = found[self._sources[key].name]
            if key in grids:
                features = grids[key].resample(features)
                if grids[key].is_shifted:
                    outputs[valid_output(key)] = grids[key].valid().to(features.device)
            elif features.ndim == 4:
                features = features.mean(dim=(1, 2))
            outputs[f"feature_{key}"] = head(features)
        return outputs

    def no_weight_decay(self) -> set[str]:
        """The backbone's parameters that timm exempts from decay (position embeddings, class tokens)."""
        of_backbone: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in of_backbone}


def build_student(
    config: Student,
    *,
    num_classes: int | None,
    losses: Sequence[Loss],
    target_shapes: Sequence[Mapping[int, tuple[int, ...]]],
    balance: nn.Module | None = None,
    covers: Sequence[Mapping[int, tuple[Cover, Cover]]] = (),
) -> StudentModel:
    """The student with a head for each feature loss.

    For each kind of views, `target_shapes` maps the index of a feature loss in `losses` to (D,) or (H, W, D), and
    `covers` that of a loss on maps to what of a view the target's grid and the student's cover, if not the whole.

    Backbone parameters that no loss reaches (the classifier, where all losses are on features) require no gradients:
    DistributedDataParallel would wait for them for ever.

    Raises:
        ModelError: the model cannot be built, lacks an output that a loss needs, or does not take its input size.
        WeightsError: `config.weights` does not fit.
    """
    feature_losses = {str(i): loss for i, loss in enumerate(losses) if isinstance(loss, OnFeatures)}
    sources = {key: _source(loss) for key, loss in feature_losses.items()}
    for each in target_shapes:
        assert set(map(int, sources)) == set(each), f"{sorted(sources)} against {sorted(each)}"
    names, stages = _needed(sources.values(), logits=True)
    shapes = output_shapes(
        config.model,
        size_px=config.input.size_px,
        num_classes=num_classes,
        names=names,
        spatial_stage=LAST_STAGE,
        stages=stages,
    )
    # before the heads, which draw random numbers too: one seed gives one backbone whatever the losses
    backbone = build_model(config.model, num_classes=num_classes)
    if config.weights is not None:
        load_weights(backbone, config.weights)
    heads = {
        key: nn.Identity()
        if loss.head is None
        else build_head(loss.head, in_width=shapes[sources[key].name][-1], out_width=target_shapes[0][int(key)][-1])
        for key, loss in feature_losses.items()
    }
    grids = [
        {
            key: _grid(of_kind[int(key)], covers[number].get(int(key)) if covers else None)
            for key, source in sources.items()
            if source.output == "spatial"
        }
        for number, of_kind in enumerate(target_shapes)
    ]
    _freeze_unreached(backbone, config, num_classes=num_classes, losses=losses)
    return StudentModel(backbone, heads=heads, sources=sources, grids=grids, balance=balance)


def _source(loss: OnFeatures) -> Source:
    return Source(output=loss.output, stage=loss.student_stage)


def _needed(sources: Iterable[Source], *, logits: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What `model_outputs` is asked for: names, and stages."""
    every = list(sources)
    names = sorted({each.output for each in every if each.stage == LAST_STAGE})
    stages = sorted({each.stage for each in every if each.stage != LAST_STAGE})
    return (("logits",) if logits else ()) + tuple(names), tuple(stages)


def _grid(shape: tuple[int, ...], covers: tuple[Cover, Cover] | None) -> TargetGrid:
    height, width, _ = shape
    cover, own_cover = covers or (WHOLE, WHOLE)
    return TargetGrid(size=(height, width), cover=cover, own_cover=own_cover)


def valid_output(key: str) -> str:
    """What the mask [H, W] of a head's comparable cells is called among a student's outputs; absent where all are."""
    return f"valid_{key}"


def _freeze_unreached(backbone: nn.Module, config: Student, *, num_classes: int | None, losses: Sequence[Loss]) -> None:
    names, stages = _needed(
        (_source(loss) for loss in losses if isinstance(loss, OnFeatures)),
        logits=any(not isinstance(loss, OnFeatures) for loss in losses),
    )
    reached = reached_parameters(
        config.model,
        size_px=config.input.size_px,
        num_classes=num_classes,
        names=names,
        spatial_stage=LAST_STAGE,
        stages=stages,
    )
    for name, parameter in backbone.named_parameters():
        if name not in reached:
            parameter.requires_grad = False
