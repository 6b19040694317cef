"""Distillation losses, each with its formula and source."""

from kd_ray.training.losses.contrastive import contrastive_loss
from kd_ray.training.losses.feature import balanced_loss, cosine_loss, mse_loss
from kd_ray.training.losses.labels import NO_LABEL, Labels, cross_entropy_loss
from kd_ray.training.losses.response import binary_kd_loss, dist_loss, dkd_loss, kd_loss, top_k_kd_loss
from kd_ray.training.losses.weighted import WeightedLosses

__all__ = [
    "NO_LABEL",
    "Labels",
    "WeightedLosses",
    "balanced_loss",
    "binary_kd_loss",
    "contrastive_loss",
    "cosine_loss",
    "cross_entropy_loss",
    "dist_loss",
    "dkd_loss",
    "kd_loss",
    "mse_loss",
    "top_k_kd_loss",
]
