"""Distillation losses, each with its formula and source.

Shape letters: B batch, K classes, D channels, H W grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.config.train import CrossEntropyLoss, FeatureLoss, KdLoss, Loss, Remainder
from kd_ray.errors import TrainingError
from kd_ray.training.encoded import Target, TopKTargets
from kd_ray.training.standardize import Standardizer

NO_LABEL = -1
BALANCED_COSINE_WEIGHT = 0.9
BALANCED_SMOOTH_L1_BETA = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels [B] and those of the partners of mixed views [B], NO_LABEL for none; the first ones' weights [B]."""

    own_B: Tensor
    partner_B: Tensor
    weights_B: Tensor

    @classmethod
    def unmixed(cls, labels_B: Tensor) -> "Labels":
        """Labels of views that are not mixed."""
        weights_B = torch.ones(labels_B.shape, dtype=torch.float32, device=labels_B.device)
        return cls(own_B=labels_B, partner_B=torch.full_like(labels_B, NO_LABEL), weights_B=weights_B)

    def to(self, device: torch.device) -> "Labels":
        """The same on `device`."""
        own_B, partner_B, weights_B = (
            each.to(device, non_blocking=True) for each in (self.own_B, self.partner_B, self.weights_B)
        )
        return Labels(own_B=own_B, partner_B=partner_B, weights_B=weights_B)


def cross_entropy_loss(logits_BK: Tensor, labels: Labels, *, label_smoothing: float) -> Tensor:
    """Cross-entropy in float32, averaged over the whole batch; a sample without a label (NO_LABEL) counts 0.

    A mixed view's two labels count with the weights of its two images (Zhang et al. 2018, mixup). Dividing by the
    labelled samples alone would make the mean over workers depend on how many workers share a batch.
    """

    def each(labels_B: Tensor) -> Tensor:
        return F.cross_entropy(
            logits_BK.float(), labels_B, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
        )

    weights_B = labels.weights_B.float()
    mixed_B = weights_B * each(labels.own_B) + (1.0 - weights_B) * each(labels.partner_B)
    return mixed_B.sum() / len(mixed_B)


def kd_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T² · mean over the batch of KL(softmax(teacher / T) || softmax(student / T)), in float32 (Hinton et al. 2015).

    The factor T² keeps the size of the gradient as T grows, and is there at every T.

    Raises:
        TrainingError: the two have different numbers of classes.
    """
    _same_shape(student_BK, teacher_BK, what="logits")
    student = F.log_softmax(student_BK.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_BK.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def top_k_kd_loss(student_BK: Tensor, teacher: TopKTargets, *, temperature: float, remainder: Remainder) -> Tensor:
    """`kd_loss` where only the k greatest of the teacher's logits are known, with the mass that the others have.

    `ghost`: all others are one class, whose probability is the sum of theirs, for the student too (a lower bound of the
    exact loss, by the data processing inequality). `uniform`: each of the others has an equal share of it.

    Raises:
        TrainingError: the two have different numbers of classes, or the temperature is not a stored one.
    """
    num_classes = student_BK.shape[-1]
    if teacher.num_classes != num_classes:
        raise TrainingError(
            f"student logits are of {num_classes} classes, the teacher's of {teacher.num_classes}; kd needs the same."
        )
    if temperature not in teacher.temperatures:
        stored = ", ".join(f"{each:g}" for each in teacher.temperatures)
        raise TrainingError(f"kd at temperature {temperature:g}, but these top_k targets hold {stored}.")
    student_BK = F.log_softmax(student_BK.float() / temperature, dim=-1)
    kept_student_Bk = student_BK.gather(-1, teacher.indices_Bk)
    kept_Bk = teacher.log_probabilities(temperature)
    rest_B = (1.0 - kept_Bk.exp().sum(dim=-1)).clamp_min(torch.finfo(torch.float32).tiny)
    others_BK = student_BK.scatter(-1, teacher.indices_Bk, -torch.inf)
    loss_B = (kept_Bk.exp() * (kept_Bk - kept_student_Bk)).sum(dim=-1)
    num_others = num_classes - teacher.indices_Bk.shape[-1]
    if num_others == 0:
        rest_loss_B = torch.zeros_like(loss_B)
    elif remainder == "ghost":
        rest_loss_B = rest_B * (rest_B.log() - others_BK.logsumexp(dim=-1))
    else:
        mean_other_B = others_BK.masked_fill(others_BK == -torch.inf, 0.0).sum(dim=-1) / num_others
        rest_loss_B = rest_B * ((rest_B / num_others).log() - mean_other_B)
    return (loss_B + rest_loss_B).mean() * temperature**2


def cosine_loss(predicted_BD: Tensor, target_BD: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Mean of 1 - cosine similarity over the last axis, in [0, 2], in float32; a target of zero norm counts as 1.

    Raises:
        TrainingError: the shapes differ.
    """
    _same_shape(predicted_BD, target_BD, what="features")
    return (1.0 - F.cosine_similarity(predicted_BD.float(), target_BD.float(), dim=-1, eps=eps)).mean()


def mse_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error over all elements, in float32.

    Raises:
        TrainingError: the shapes differ.
    """
    _same_shape(predicted_BD, target_BD, what="features")
    return F.mse_loss(predicted_BD.float(), target_BD.float())


def balanced_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """0.9 (1 - cosine) + 0.1 smooth-L1 with beta 2, in float32 (the "BALANCED" loss of the RADIO trainer).

    Raises:
        TrainingError: the shapes differ.
    """
    cosine = cosine_loss(predicted_BD, target_BD)
    smooth_l1 = F.smooth_l1_loss(predicted_BD.float(), target_BD.float(), beta=BALANCED_SMOOTH_L1_BETA)
    return BALANCED_COSINE_WEIGHT * cosine + (1 - BALANCED_COSINE_WEIGHT) * smooth_l1


FEATURE_DISTANCES = {"cosine": cosine_loss, "mse": mse_loss, "balanced": balanced_loss}

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


def _same_shape(predicted: Tensor, target: Tensor, *, what: str) -> None:
    if predicted.shape != target.shape:
        raise TrainingError(
            f"student {what} have shape {tuple(predicted.shape)}, the teacher's {tuple(target.shape)}; "
            "a loss needs equal shapes: check the number of classes, or use a feature loss with a head."
        )
