"""Distances between features, each with its formula and source.

Shape letters: B batch, D channels, H and W grid.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.config.losses import FeatureLoss
from kd_ray.errors import TrainingError
from kd_ray.training.losses.shapes import require_same_shape

BALANCED_COSINE_SHARE = 0.9
BALANCED_SMOOTH_L1_BETA = 2.0
FD_BETA = 2.0
LEAST_NORM = 1e-6
# targets that all point one way, as a single one does, have no spread to be divided by
LEAST_SPREAD = 1e-6


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


def balanced_loss(
    predicted_BD: Tensor,
    target_BD: Tensor,
    *,
    cosine_share: float = BALANCED_COSINE_SHARE,
    beta: float = BALANCED_SMOOTH_L1_BETA,
) -> Tensor:
    """c (1 - cosine) + (1 - c) smooth-L1, in float32: with 0.9 and beta 2 the "BALANCED" loss of the RADIO trainer,
    with 0.9 and beta 1 that of Theia, with 0.5 and beta 1 that of UNIC.

    Raises:
        TrainingError: the shapes differ.
    """
    cosine = cosine_loss(predicted_BD, target_BD)
    smooth_l1 = F.smooth_l1_loss(predicted_BD.float(), target_BD.float(), beta=beta)
    return cosine_share * cosine + (1 - cosine_share) * smooth_l1


def l1_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean absolute error over all elements, in float32.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
    return F.l1_loss(predicted_BD.float(), target_BD.float())


def smooth_l1_loss(predicted_BD: Tensor, target_BD: Tensor, *, beta: float) -> Tensor:
    """Mean of d² / (2 beta) where |d| < beta, else |d| - beta / 2, in float32 (Girshick 2015).

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
    return F.smooth_l1_loss(predicted_BD.float(), target_BD.float(), beta=beta)


def fd_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Smooth-L1 with beta 2 to targets of mean 0 and variance 1 over their channels (Wei et al. 2022, FD).

    Raises:
        TrainingError: the shapes differ.
    """
    return smooth_l1_loss(predicted_BD, F.layer_norm(target_BD.float(), target_BD.shape[-1:]), beta=FD_BETA)


def angle_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared angle between the two, over that between the batch's targets and their mean direction, in float32.

    So teachers whose targets lie in a narrow cone count as much as others (the "angle" loss of the RADIO trainer).
    Targets that all point one way are divided by 1. A vector of zero norm is at a right angle to all.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
    predicted, target = _unit(predicted_BD), _unit(target_BD)
    return _angle(predicted, target).square().mean() / _spread(_angle(target, _mean_direction(target)).square())


def tangent_sphere_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared distance in the plane that touches the unit sphere at the batch's mean target direction, in float32.

    Directions go there by the sphere's logarithm, which keeps their angle to that direction; the result is over the
    targets' mean squared length there, as in `angle_loss`. The name is the RADIO trainer's, the formula is given here.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
    predicted, target = _unit(predicted_BD), _unit(target_BD)
    centre_D = _mean_direction(target)
    target = _logarithm(target, centre_D)
    distances = (_logarithm(predicted, centre_D) - target).square().sum(dim=-1)
    return distances.mean() / _spread(target.square().sum(dim=-1))


def dampened_mse_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean over all elements, in float32, of d² / 2 where |d| < 1 and else 2 √|d| - 1.5 (the "dampened" MSE of
    the RADIO trainer): value and slope agree at 1, and great differences count less than with smooth-L1.

    Raises:
        TrainingError: the shapes differ.
    """
    require_same_shape(predicted_BD, target_BD, what="features")
    size = (predicted_BD.float() - target_BD.float()).abs()
    # not the root of what is small, whose slope is infinite at 0
    return torch.where(size < 1.0, 0.5 * size.square(), 2.0 * size.clamp_min(1.0).sqrt() - 1.5).mean()


def attention_transfer_loss(predicted_BHWD: Tensor, target_BHWD: Tensor) -> Tensor:
    """Squared distance of the maps of mean squared channels, each of unit length over H x W, averaged over the batch,
    in float32 (Zagoruyko & Komodakis 2017). The numbers of channels may differ.

    Raises:
        TrainingError: the batch or the grids differ.
    """
    if predicted_BHWD.ndim != 4 or predicted_BHWD.shape[:3] != target_BHWD.shape[:3]:
        raise TrainingError(
            f"attention_transfer: the student's map is {tuple(predicted_BHWD.shape)}, the teacher's "
            f"{tuple(target_BHWD.shape)}; both need the same batch and grid [B, H, W, D]."
        )
    predicted, target = (
        _unit(each.float().square().mean(dim=-1).flatten(start_dim=1)) for each in (predicted_BHWD, target_BHWD)
    )
    return (predicted - target).square().sum(dim=-1).mean()


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1, eps=LEAST_NORM)


def _mean_direction(unit: Tensor) -> Tensor:
    return F.normalize(unit.flatten(end_dim=-2).mean(dim=0), dim=-1, eps=LEAST_NORM)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Between unit vectors; acos of their product has no finite gradient where they agree, and few digits near it."""
    half: Tensor = torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return 2.0 * half


def _logarithm(unit: Tensor, centre_D: Tensor) -> Tensor:
    across = unit - (unit * centre_D).sum(dim=-1, keepdim=True) * centre_D
    length: Tensor = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    tangent: Tensor = across * (_angle(unit, centre_D)[..., None] / length.clamp_min(LEAST_NORM))
    return tangent


def _spread(squares: Tensor) -> Tensor:
    mean: Tensor = squares.mean().detach()
    return torch.where(mean < LEAST_SPREAD, torch.ones_like(mean), mean)


_DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_loss,
    "mse": mse_loss,
    "l1": l1_loss,
    "fd": fd_loss,
    "angle": angle_loss,
    "tangent_sphere": tangent_sphere_loss,
    "dampened_mse": dampened_mse_loss,
    "attention_transfer": attention_transfer_loss,
}


def feature_loss(loss: FeatureLoss) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance that the configuration names, of (predicted, target)."""
    match loss.distance:
        case "smooth_l1":
            return partial(smooth_l1_loss, beta=loss.beta or 1.0)
        case "balanced":
            beta = loss.beta or BALANCED_SMOOTH_L1_BETA
            return partial(balanced_loss, cosine_share=loss.cosine_share, beta=beta)
        case other:
            return _DISTANCES[other]
