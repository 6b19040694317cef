"""Losses on how samples, or tokens of an image, stand to each other, each with its formula and source.

The widths of student and teacher may differ. "Samples" are those of one worker's share of a batch.
Shape letters: B batch, D channels, H and W grid, M = H x W tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.config.losses import RelationalLoss
from kd_ray.errors import TrainingError

LEAST_NORM = 1e-8


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs of smooth-L1 (beta 1) between distances, each side's over their mean (Park et al. 2019, RKD-D).

    A batch of one sample costs 0.

    Raises:
        TrainingError: the batches differ.
    """
    student_BD, teacher_BD = _samples(student, teacher)
    if len(student_BD) < 2:
        return student_BD.sum() * 0.0
    return F.smooth_l1_loss(_relative_distances(student_BD), _relative_distances(teacher_BD))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over triples of smooth-L1 (beta 1) between the cosines of the angles at their middle (Park et al. 2019).

    A batch of fewer than three samples costs 0. Memory grows as B² D + B³.

    Raises:
        TrainingError: the batches differ.
    """
    student_BD, teacher_BD = _samples(student, teacher)
    count = len(student_BD)
    if count < 3:
        return student_BD.sum() * 0.0
    summed = F.smooth_l1_loss(_cosines(student_BD), _cosines(teacher_BD), reduction="sum")
    return summed / (count * (count - 1) * (count - 2))


def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of F Fᵀ, [B, B] with rows of unit length (Tung & Mori 2019).

    Raises:
        TrainingError: the batches differ.
    """
    student_BB, teacher_BB = (F.normalize(each @ each.T, dim=-1, eps=LEAST_NORM) for each in _samples(student, teacher))
    return F.mse_loss(student_BB, teacher_BB)


def cka_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - linear CKA of the batch (Kornblith et al. 2019), in [0, 1]; 1 where the samples of one side are all alike.

    It is unchanged by turning either side, and by scaling it.

    Raises:
        TrainingError: the batches differ.
    """
    student_BB, teacher_BB = (_centred_gram(each) for each in _samples(student, teacher))
    return 1.0 - F.cosine_similarity(student_BB.flatten(), teacher_BB.flatten(), dim=0, eps=LEAST_NORM)


def token_similarity_loss(student_BHWD: Tensor, teacher_BHWD: Tensor, *, temperature: float) -> Tensor:
    """Mean over tokens of KL(softmax(T̂ T̂ᵀ / T) || softmax(Ŝ Ŝᵀ / T)), both [M, M] within an image (as LightlyTrain's
    third distillation method has it).

    Raises:
        TrainingError: the batch or the grids differ.
    """
    if student_BHWD.ndim != 4 or student_BHWD.shape[:3] != teacher_BHWD.shape[:3]:
        raise TrainingError(
            f"token_similarity: the student's map is {tuple(student_BHWD.shape)}, the teacher's "
            f"{tuple(teacher_BHWD.shape)}; both need the same batch and grid [B, H, W, D]."
        )
    student_BMM, teacher_BMM = (
        F.log_softmax(each_BMD @ each_BMD.transpose(1, 2) / temperature, dim=-1)
        for each_BMD in (
            F.normalize(each.float().flatten(1, 2), dim=-1, eps=1e-6) for each in (student_BHWD, teacher_BHWD)
        )
    )
    return (teacher_BMM.exp() * (teacher_BMM - student_BMM)).sum(dim=-1).mean()


def relational_loss(loss: RelationalLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """The relation that the configuration names."""
    match loss.distance:
        case "rkd_distance":
            return rkd_distance_loss(student, teacher)
        case "rkd_angle":
            return rkd_angle_loss(student, teacher)
        case "similarity_preserving":
            return similarity_preserving_loss(student, teacher)
        case "cka":
            return cka_loss(student, teacher)
        case "token_similarity":
            return token_similarity_loss(student, teacher, temperature=loss.temperature)


def _samples(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher):
        raise TrainingError(f"a relational loss compares {len(student)} samples of the student with {len(teacher)}.")
    return student.float().flatten(start_dim=1), teacher.float().flatten(start_dim=1)


def _relative_distances(features_BD: Tensor) -> Tensor:
    distances_P = F.pdist(features_BD)
    return distances_P / distances_P.mean().clamp_min(LEAST_NORM)


def _cosines(features_BD: Tensor) -> Tensor:
    """[middle, one end, other end]; 0 where an end is the middle."""
    to_ends_BBD = F.normalize(features_BD[None, :, :] - features_BD[:, None, :], dim=-1, eps=1e-6)
    return torch.bmm(to_ends_BBD, to_ends_BBD.transpose(1, 2))


def _centred_gram(features_BD: Tensor) -> Tensor:
    centred_BD = features_BD - features_BD.mean(dim=0)
    return centred_BD @ centred_BD.T
