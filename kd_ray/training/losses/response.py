"""Losses on logits, each with its formula and source.

Shape letters: B batch, K classes, k the greatest of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.config.losses import Remainder
from kd_ray.errors import TrainingError
from kd_ray.training.encoded import TopKTargets
from kd_ray.training.losses.shapes import require_same_shape


def kd_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T² · mean over the batch of KL(softmax(teacher / T) || softmax(student / T)), in float32 (Hinton et al. 2015).

    The factor T² keeps the size of the gradient as T grows, and is there at every T.

    Raises:
        TrainingError: the two have different numbers of classes.
    """
    require_same_shape(student_BK, teacher_BK, what="logits")
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
