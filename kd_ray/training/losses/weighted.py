"""The losses of a recipe, weighted and summed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kd_ray.config.losses import CrossEntropyLoss, FeatureLoss, KdLoss, Loss
from kd_ray.training.encoded import Target, TopKTargets
from kd_ray.training.losses.feature import FEATURE_DISTANCES
from kd_ray.training.losses.labels import Labels, cross_entropy_loss
from kd_ray.training.losses.response import kd_loss, top_k_kd_loss
from kd_ray.training.standardize import Standardizer

Targets = Mapping[tuple[str, str], Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLosses:
    """The losses of a recipe, each with the teacher it follows; `teachers[i]` belongs to `losses[i]`.

    `standardizers`, by a loss's index, turn its targets on the device where training runs.
    """

    losses: Sequence[Loss]
    teachers: Sequence[str | None]
    standardizers: Mapping[int, Standardizer] = field(default_factory=dict)

    @property
    def train_logits(self) -> bool:
        """Whether any loss is on the logits; if none is, the student's classifier stays as it was initialised."""
        return any(not isinstance(loss, FeatureLoss) for loss in self.losses)

    def needed_targets(self) -> set[tuple[str, str]]:
        """(teacher, output) of every target that is read."""
        needed = set()
        for loss, teacher in zip(self.losses, self.teachers, strict=True):
            if teacher is not None:
                needed.add((teacher, "logits" if isinstance(loss, KdLoss) else _feature_output(loss)))
        return needed

    def __call__(
        self, outputs: Mapping[str, Tensor], labels: Labels, targets: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each unweighted term by name (detached)."""
        total = outputs["logits"].new_zeros((), dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        for index, loss in enumerate(self.losses):
            value = self._term(index, outputs, labels, targets)
            total = total + loss.weight * value
            terms[term_name(index, loss)] = value.detach()
        return total, terms

    def _term(self, index: int, outputs: Mapping[str, Tensor], labels: Labels, targets: Targets) -> Tensor:
        teacher = self.teachers[index] or ""
        match self.losses[index]:
            case CrossEntropyLoss(label_smoothing=smoothing):
                return cross_entropy_loss(outputs["logits"], labels, label_smoothing=smoothing)
            case KdLoss(temperature=temperature, remainder=remainder):
                target = targets[teacher, "logits"]
                if isinstance(target, TopKTargets):
                    return top_k_kd_loss(outputs["logits"], target, temperature=temperature, remainder=remainder)
                return kd_loss(outputs["logits"], target, temperature=temperature)
            case FeatureLoss(output=output, distance=distance):
                target = targets[teacher, output]
                assert isinstance(target, Tensor), "the k greatest are of logits"
                if index in self.standardizers:
                    target = self.standardizers[index](target)
                return FEATURE_DISTANCES[distance](outputs[f"feature_{index}"], target)


def term_name(index: int, loss: Loss) -> str:
    """What a loss is called in logs: its place in the recipe and its kind."""
    suffix = f"_{loss.output}" if isinstance(loss, FeatureLoss) else ""
    return f"{index}_{loss.kind}{suffix}"


def _feature_output(loss: Loss) -> str:
    assert isinstance(loss, FeatureLoss)
    return loss.output
