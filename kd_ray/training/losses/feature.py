"""Distances between features, each with its formula and source.

Shape letters: B batch, D channels.
"""

import torch.nn.functional as F
from torch import Tensor

from kd_ray.training.losses.shapes import require_same_shape

BALANCED_COSINE_WEIGHT = 0.9
BALANCED_SMOOTH_L1_BETA = 2.0


def cosine_loss(predicted_BD: Tensor, target_BD: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Mean of 1 - cosine similarity over the last axis, in [0, 2], in float32; a target of zero norm counts as 1.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
    return (1.0 - F.cosine_similarity(predicted_BD.float(), target_BD.float(), dim=-1, eps=eps)).mean()


def mse_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error over all elements, in float32.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
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
