"""Targets standardised on the student's device, by a transform that the cache has frozen.

Shape letters: D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_ray.cache.phi_s import PhiS


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardizer:
    """PHI-S (see `kd_ray.cache.phi_s`) in float32; `matrix_DD` is α H Uᵀ."""

    mean_D: Tensor
    matrix_DD: Tensor

    @staticmethod
    def of(transform: PhiS, device: torch.device) -> "Standardizer":
        """On `device`."""
        matrix_DD = torch.tensor(transform.rotation_DD) * transform.alpha
        return Standardizer(mean_D=torch.tensor(transform.mean_D).to(device), matrix_DD=matrix_DD.to(device))

    def __call__(self, targets: Tensor) -> Tensor:
        """Targets [..., D] as the student is to give them."""
        with torch.autocast(targets.device.type, enabled=False):
            return (targets.float() - self.mean_D) @ self.matrix_DD.T
