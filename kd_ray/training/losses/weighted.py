"""The losses of a recipe, weighted and summed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.losses import CrossEntropyLoss, FeatureLoss, KdLoss, Loss
from kd_ray.training.balance import Balance, factor_term, factors_of, penalty_of, teacher_term
from kd_ray.training.encoded import Target, TopKTargets
from kd_ray.training.losses.feature import FEATURE_DISTANCES
from kd_ray.training.losses.labels import Labels, cross_entropy_loss
from kd_ray.training.losses.response import kd_loss, top_k_kd_loss
from kd_ray.training.standardize import Standardizer
from kd_ray.training.teacher_dropout import TeacherDropout, kept_labels, kept_outputs, kept_target

Targets = Mapping[tuple[str, str], Target]
Kept = Mapping[str, Tensor]
ALL_KEPT: Kept = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLosses:
    """The losses of a recipe, each with the teacher it follows; `teachers[i]` belongs to `losses[i]`.

    `standardizers`, by a loss's index, turn its targets on the device where training runs. `balance` says what the
    network must have (`build_balance`) for its outputs to weigh the teachers.
    """

    losses: Sequence[Loss]
    teachers: Sequence[str | None]
    standardizers: Mapping[int, Standardizer] = field(default_factory=dict)
    balance: Balance = "fixed"
    dropout: TeacherDropout | None = None

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """Every teacher that is followed, in the order in which they are balanced."""
        return tuple(sorted({teacher for teacher in self.teachers if teacher is not None}))

    def kept(self, sample_ids_B: NDArray[np.uint64], *, step: int) -> Kept:
        """By teacher, the samples [B] that it teaches at `step`; empty where each teaches all."""
        return {} if self.dropout is None else self.dropout.kept(self.teacher_names, sample_ids_B, step=step)

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
        self, outputs: Mapping[str, Tensor], labels: Labels, targets: Targets, *, kept: Kept = ALL_KEPT
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each unweighted term by name (detached).

        A sample that is not `kept` for a teacher counts 0 in its losses. With several teachers the terms have each
        one's weighted sum, and where these are balanced its factor, besides.
        """
        total = outputs["logits"].new_zeros((), dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        names = self.teacher_names
        factors = factors_of(outputs, names)
        for index, (loss, teacher) in enumerate(zip(self.losses, self.teachers, strict=True)):
            if teacher is not None and teacher in kept:
                value = self._kept_term(index, outputs, labels, targets, rows_B=kept[teacher])
            else:
                value = self._term(index, outputs, labels, targets)
            weighted = loss.weight * value
            total = total + (factors[teacher] * weighted if teacher in factors else weighted)
            terms[term_name(index, loss)] = value.detach()
            if teacher is not None and len(names) > 1:
                name = teacher_term(teacher)
                terms[name] = terms[name] + weighted.detach() if name in terms else weighted.detach()
        penalty = penalty_of(outputs)
        if penalty is not None:
            total = total + penalty
        terms |= {factor_term(name): factor.detach() for name, factor in factors.items()}
        return total, terms

    def _kept_term(
        self, index: int, outputs: Mapping[str, Tensor], labels: Labels, targets: Targets, *, rows_B: Tensor
    ) -> Tensor:
        """The term of some samples alone, by their share of the batch."""
        found = kept_outputs(outputs, ("logits", f"feature_{index}"), rows_B)
        if f"valid_{index}" in outputs:
            found[f"valid_{index}"] = outputs[f"valid_{index}"]
        num_kept = int(rows_B.sum())
        if not num_kept:  # gradients of zero: DistributedDataParallel waits for one of each head
            return torch.stack([each.float().sum() for each in found.values()]).sum()
        teacher = self.teachers[index]
        of_teacher = {key: kept_target(each, rows_B) for key, each in targets.items() if key[0] == teacher}
        return self._term(index, found, kept_labels(labels, rows_B), of_teacher) * (num_kept / len(rows_B))

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
                predicted = outputs[f"feature_{index}"]
                if f"valid_{index}" in outputs:
                    valid_HW = outputs[f"valid_{index}"].bool()
                    predicted, target = predicted[:, valid_HW], target[:, valid_HW]
                return FEATURE_DISTANCES[distance](predicted, target)


def term_name(index: int, loss: Loss) -> str:
    """What a loss is called in logs: its place in the recipe and its kind."""
    suffix = f"_{loss.output}" if isinstance(loss, FeatureLoss) else ""
    return f"{index}_{loss.kind}{suffix}"


def _feature_output(loss: Loss) -> str:
    assert isinstance(loss, FeatureLoss)
    return loss.output
