"""The losses of a recipe, weighted and summed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.losses import (
    BinaryKdLoss,
    ContrastiveLoss,
    CrossEntropyLoss,
    DistLoss,
    DkdLoss,
    FeatureLoss,
    KdLoss,
    LogitsLoss,
    Loss,
    OnFeatures,
    RelationalLoss,
)
from kd_ray.errors import TrainingError
from kd_ray.training.balance import Balance, factor_term, factors_of, penalty_of, teacher_term
from kd_ray.training.encoded import Target, TopKTargets
from kd_ray.training.losses.contrastive import Queues, contrastive_loss
from kd_ray.training.losses.feature import feature_loss
from kd_ray.training.losses.labels import Labels, cross_entropy_loss
from kd_ray.training.losses.relational import relational_loss
from kd_ray.training.losses.response import binary_kd_loss, dist_loss, dkd_loss, kd_loss, top_k_kd_loss
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
    `num_steps` is that of the run, over which weights change, and `queues` change at every step: see `for_run`. That of
    loss i has the number `first_queue` + i.
    """

    losses: Sequence[Loss]
    teachers: Sequence[str | None]
    standardizers: Mapping[int, Standardizer] = field(default_factory=dict)
    balance: Balance = "fixed"
    dropout: TeacherDropout | None = None
    num_steps: int = 1
    queues: Queues = field(default_factory=Queues, compare=False)
    first_queue: int = 0

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """Every teacher that is followed, in the order in which they are balanced."""
        return tuple(sorted({teacher for teacher in self.teachers if teacher is not None}))

    def kept(self, sample_ids_B: NDArray[np.uint64], *, step: int) -> Kept:
        """By teacher, the samples [B] that it teaches at `step`; empty where each teaches all."""
        return {} if self.dropout is None else self.dropout.kept(self.teacher_names, sample_ids_B, step=step)

    def for_run(self, num_steps: int) -> "WeightedLosses":
        """The same at the start of a run of so many steps, with queues of its own."""
        return replace(self, num_steps=num_steps, queues=Queues())

    @property
    def train_logits(self) -> bool:
        """Whether any loss is on the logits; if none is, the student's classifier stays as it was initialised."""
        return any(not isinstance(loss, OnFeatures) for loss in self.losses)

    def needed_targets(self) -> set[tuple[str, str]]:
        """(teacher, output) of every target that is read."""
        needed = set()
        for loss, teacher in zip(self.losses, self.teachers, strict=True):
            if teacher is not None and not isinstance(loss, CrossEntropyLoss):
                needed.add((teacher, followed_output(loss)))
        return needed

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        labels: Labels,
        targets: Targets,
        *,
        kept: Kept = ALL_KEPT,
        step: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum with the weights of `step` (0 is the first), and each unweighted term by name (detached).

        A sample that is not `kept` for a teacher counts 0 in its losses. With several teachers the terms have each
        one's weighted sum, and where these are balanced its factor, besides.
        """
        total = outputs["logits"].new_zeros((), dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        names = self.teacher_names
        self._fill_queues(targets)
        factors = factors_of(outputs, names)
        for index, (loss, teacher) in enumerate(zip(self.losses, self.teachers, strict=True)):
            if teacher is not None and teacher in kept:
                value = self._kept_term(index, outputs, labels, targets, rows_B=kept[teacher])
            else:
                value = self._term(index, outputs, labels, targets)
            weighted = weight_at(loss, step / self.num_steps) * value
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
        num_kept = int(rows_B.sum())
        if not num_kept:  # gradients of zero: DistributedDataParallel waits for one of each head
            return torch.stack([each.float().sum() for each in found.values()]).sum()
        if f"valid_{index}" in outputs:
            found[f"valid_{index}"] = outputs[f"valid_{index}"]
        teacher = self.teachers[index]
        of_teacher = {key: kept_target(each, rows_B) for key, each in targets.items() if key[0] == teacher}
        return self._term(index, found, kept_labels(labels, rows_B), of_teacher) * (num_kept / len(rows_B))

    def _term(self, index: int, outputs: Mapping[str, Tensor], labels: Labels, targets: Targets) -> Tensor:
        teacher = self.teachers[index] or ""
        match self.losses[index]:
            case CrossEntropyLoss(label_smoothing=smoothing):
                return cross_entropy_loss(outputs["logits"], labels, label_smoothing=smoothing)
            case LogitsLoss() as loss:
                return _on_logits(loss, outputs["logits"], targets[teacher, "logits"], labels)
            case OnFeatures() as loss:
                target = self._target(index, loss, targets)
                predicted = outputs[f"feature_{index}"]
                if f"valid_{index}" in outputs:  # a row of the cells that both sides have seen
                    valid_HW = outputs[f"valid_{index}"].bool()
                    predicted, target = (each[:, valid_HW].unsqueeze(1) for each in (predicted, target))
                return self._on_features(index, loss, predicted, target)

    def _target(self, index: int, loss: OnFeatures, targets: Targets) -> Tensor:
        target = targets[self.teachers[index] or "", loss.output]
        assert isinstance(target, Tensor), "the k greatest are of logits"
        return self.standardizers[index](target) if index in self.standardizers else target

    def _fill_queues(self, targets: Targets) -> None:
        """With all of the batch, whichever teachers are dropped: workers do this together."""
        for index, loss in enumerate(self.losses):
            if isinstance(loss, ContrastiveLoss):
                self.queues.push(self.first_queue + index, self._target(index, loss, targets), size=loss.queue_size)

    def _on_features(self, index: int, loss: OnFeatures, predicted: Tensor, target: Tensor) -> Tensor:
        match loss:
            case FeatureLoss():
                return feature_loss(loss)(predicted, target)
            case RelationalLoss():
                return relational_loss(loss, predicted, target)
            case ContrastiveLoss(temperature=temperature):
                return contrastive_loss(
                    predicted, target, self.queues.tensors[self.first_queue + index], temperature=temperature
                )
            case _:
                raise AssertionError(f"{type(loss).__name__} is no loss on features")


def _on_logits(loss: LogitsLoss, student_BK: Tensor, teacher: Target, labels: Labels) -> Tensor:
    temperature = loss.temperature
    if isinstance(teacher, TopKTargets):
        if not isinstance(loss, KdLoss) or not loss.takes_top_k:
            raise TrainingError("of the k greatest logits only kd without standardize_logits can be computed.")
        return top_k_kd_loss(student_BK, teacher, temperature=temperature, remainder=loss.remainder)
    match loss:
        case KdLoss(standardize_logits=standardize):
            return kd_loss(student_BK, teacher, temperature=temperature, standardize_logits=standardize)
        case DistLoss(beta=beta, gamma=gamma):
            return dist_loss(student_BK, teacher, temperature=temperature, beta=beta, gamma=gamma)
        case DkdLoss(alpha=alpha, beta=beta):
            return dkd_loss(student_BK, teacher, labels, temperature=temperature, alpha=alpha, beta=beta)
        case BinaryKdLoss():
            return binary_kd_loss(student_BK, teacher, temperature=temperature)
        case _:
            raise AssertionError(f"{type(loss).__name__} is no loss on logits")


def weight_at(loss: Loss, progress: float) -> float:
    """The loss's weight where `progress` of the run, from 0 to 1, is behind."""
    schedule = loss.weight_schedule
    if schedule is None:
        return loss.weight
    share = min(progress / schedule.fraction, 1.0)
    if schedule.kind == "cosine":
        share = (1.0 - math.cos(math.pi * share)) / 2.0
    return loss.weight * (schedule.start + share * (schedule.end - schedule.start))


def term_name(index: int, loss: Loss) -> str:
    """What a loss is called in logs: its place in the recipe and its kind."""
    suffix = f"_{loss.output}" if isinstance(loss, OnFeatures) else ""
    return f"{index}_{loss.kind}{suffix}"


def followed_output(loss: LogitsLoss | OnFeatures) -> str:
    """The teacher's output that a loss reads."""
    return loss.output if isinstance(loss, OnFeatures) else "logits"
