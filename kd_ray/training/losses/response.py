"""Losses on logits, each with its formula and source.

Shape letters: B batch, K classes, k the greatest of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.config.losses import Remainder
from kd_ray.errors import TrainingError
from kd_ray.training.encoded import TopKTargets
from kd_ray.training.losses.labels import NO_LABEL, Labels
from kd_ray.training.losses.shapes import require_same_shape

# equal logits have no deviation to be divided by; the gradient stays below 1 / sqrt of this
LEAST_VARIANCE = 1e-6
LEAST_NORM = 1e-8


def kd_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float, standardize_logits: bool = False) -> Tensor:
    """T² · mean over the batch of KL(softmax(teacher / T) || softmax(student / T)), in float32 (Hinton et al. 2015).

    The factor T² keeps the size of the gradient as T grows, and is there at every T. With `standardize_logits` both
    logits have mean 0 and deviation 1 over the classes before (Sun et al. 2024, "Logit Standardization").

    Raises:
        TrainingError: the two have different numbers of classes.
    """
    require_same_shape(student_BK, teacher_BK, what="logits")
    student_BK, teacher_BK = student_BK.float(), teacher_BK.float()
    if standardize_logits:
        student_BK, teacher_BK = _standardized(student_BK), _standardized(teacher_BK)
    student = F.log_softmax(student_BK / temperature, dim=-1)
    teacher = F.log_softmax(teacher_BK / temperature, dim=-1)
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


def dist_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float, beta: float, gamma: float) -> Tensor:
    """T² (beta (1 - mean over samples of r) + gamma (1 - mean over classes of r)), in float32 (Huang et al. 2022).

    r is Pearson's correlation of softmax(student / T) and softmax(teacher / T): of a sample's classes, and of a class's
    probabilities over the batch. Where one side does not vary, r is 0 and has no gradient.

    Raises:
        TrainingError: the two have different numbers of classes.
    """
    require_same_shape(student_BK, teacher_BK, what="logits")
    student_BK = F.softmax(student_BK.float() / temperature, dim=-1)
    teacher_BK = F.softmax(teacher_BK.float() / temperature, dim=-1)
    between_classes = 1.0 - _correlation(student_BK, teacher_BK).mean()
    within_classes = 1.0 - _correlation(student_BK.T, teacher_BK.T).mean()
    return temperature**2 * (beta * between_classes + gamma * within_classes)


def dkd_loss(
    student_BK: Tensor, teacher_BK: Tensor, labels: Labels, *, temperature: float, alpha: float, beta: float
) -> Tensor:
    """T² (alpha TCKD + beta NCKD), in float32, averaged over the batch (Zhao et al. 2022, DKD).

    TCKD is the KL of (target class, all others), NCKD that of the others among themselves. The target class is the
    label, of a mixed view that of the image with the greater weight; without one it is the teacher's greatest logit.

    Raises:
        TrainingError: the two have different numbers of classes, or fewer than two.
    """
    require_same_shape(student_BK, teacher_BK, what="logits")
    if student_BK.shape[-1] < 2:
        raise TrainingError(f"dkd tells one class from others, but there is {student_BK.shape[-1]}; take binary_kd.")
    student_BK, teacher_BK = student_BK.float() / temperature, teacher_BK.float() / temperature
    labels_B = torch.where(labels.weights_B >= 0.5, labels.own_B, labels.partner_B)
    target_B1 = torch.where(labels_B == NO_LABEL, teacher_BK.argmax(dim=-1), labels_B)[:, None]
    is_target_BK = torch.zeros_like(student_BK, dtype=torch.bool).scatter(-1, target_B1, True)
    tckd_B = _divergence(_target_or_not(student_BK, is_target_BK), _target_or_not(teacher_BK, is_target_BK))
    others = (F.log_softmax(each.masked_fill(is_target_BK, -torch.inf), dim=-1) for each in (student_BK, teacher_BK))
    nckd_B = _divergence(*(each.masked_fill(is_target_BK, 0.0) for each in others), left_out=is_target_BK)
    return temperature**2 * (alpha * tckd_B + beta * nckd_B).mean()


def binary_kd_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T² · mean over batch and classes of KL(sigmoid(teacher / T) || sigmoid(student / T)), in float32.

    It is the binary cross-entropy with the teacher's probabilities less their own entropy: the same gradients, and 0
    where both agree.

    Raises:
        TrainingError: the two have different numbers of classes.
    """
    require_same_shape(student_BK, teacher_BK, what="logits")
    student_BK, teacher_BK = student_BK.float() / temperature, teacher_BK.float() / temperature
    yes = teacher_BK.sigmoid() * (F.logsigmoid(teacher_BK) - F.logsigmoid(student_BK))
    no = (-teacher_BK).sigmoid() * (F.logsigmoid(-teacher_BK) - F.logsigmoid(-student_BK))
    return temperature**2 * (yes + no).mean()


def _standardized(logits_BK: Tensor) -> Tensor:
    centred_BK = logits_BK - logits_BK.mean(dim=-1, keepdim=True)
    return centred_BK * (centred_BK.square().mean(dim=-1, keepdim=True) + LEAST_VARIANCE).rsqrt()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    return F.cosine_similarity(a, b, dim=-1, eps=LEAST_NORM)


def _target_or_not(logits_BK: Tensor, is_target_BK: Tensor) -> Tensor:
    """Log-probabilities [B, 2] of the target class and of all others."""
    log_BK = F.log_softmax(logits_BK, dim=-1)
    target_B = log_BK.masked_fill(~is_target_BK, 0.0).sum(dim=-1)
    return torch.stack([target_B, log_BK.masked_fill(is_target_BK, -torch.inf).logsumexp(dim=-1)], dim=-1)


def _divergence(student: Tensor, teacher: Tensor, *, left_out: Tensor | None = None) -> Tensor:
    """KL(teacher || student) [B] of log-probabilities."""
    shares = teacher.exp() * (teacher - student)
    return (shares if left_out is None else shares.masked_fill(left_out, 0.0)).sum(dim=-1)
