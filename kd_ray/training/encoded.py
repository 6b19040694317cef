"""Targets of one batch as they are stored, decoded on the student's device: fewer bytes travel, and no CPU is spent.

Shape letters: B batch, D channels, K classes, k kept classes, T temperatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKTargets:
    """The k greatest of a teacher's K logits (see `kd_ray.cache.codecs.TopK`): classes and values less the greatest
    [B, k], and the log-sum-exp of all K, less the greatest, over each temperature [B, T].
    """

    indices_Bk: Tensor
    values_Bk: Tensor
    log_sum_exp_BT: Tensor
    temperatures: tuple[float, ...]
    num_classes: int

    def log_probabilities(self, temperature: float) -> Tensor:
        """Of the kept classes among all K, [B, k]; `temperature` is one of the stored ones."""
        log_sum_B = self.log_sum_exp_BT[:, self.temperatures.index(temperature)]
        return self.values_Bk / temperature - log_sum_B[:, None]

    def to(self, device: torch.device) -> "TopKTargets":
        """The same on `device`."""
        indices_Bk, values_Bk, log_sum_exp_BT = (
            each.to(device, non_blocking=True) for each in (self.indices_Bk, self.values_Bk, self.log_sum_exp_BT)
        )
        return replace(self, indices_Bk=indices_Bk, values_Bk=values_Bk, log_sum_exp_BT=log_sum_exp_BT)


Target = Tensor | TopKTargets
"""Dense values [B, …] in float32, or the k greatest of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTargets:
    """The arrays [B, …] of one output by name."""

    coding: Coding
    calibration: Calibration | None
    arrays: Mapping[str, Tensor]

    def to(self, device: torch.device) -> Target:
        """Decoded on `device`; on a CPU the very values of `Coding.decode`, in float32 (to rounding with a basis)."""
        arrays = {name: array.to(device, non_blocking=True) for name, array in self.arrays.items()}
        decoded = self._decode(arrays, device)
        basis = None if self.calibration is None else self.calibration.basis
        if basis is None or isinstance(decoded, TopKTargets):
            return decoded
        directions_kD, center_D = torch.from_numpy(basis.directions_kD), torch.from_numpy(basis.center_D)
        return decoded @ directions_kD.to(device) + center_D.to(device)

    def _decode(self, arrays: Mapping[str, Tensor], device: torch.device) -> Target:
        """The values; the coefficients where there is a basis."""
        match self.coding.codec:
            case "float32" | "float16":
                return arrays["values"].float()
            case "bfloat16":
                return (arrays["values"].to(torch.int32) << 16).view(torch.float32)
            case "int8":
                assert self.calibration is not None
                mean_D = torch.from_numpy(self.calibration.mean_D).to(device)
                deviation_D = torch.from_numpy(self.calibration.deviation_D).to(device)
                return arrays["values"].float() * arrays["scale"].float()[..., None] * deviation_D + mean_D
            case "uint8":
                return arrays["maximum"][..., None] - arrays["values"].float() * arrays["step"][..., None]
            case "top_k":
                return TopKTargets(
                    indices_Bk=arrays["indices"].long(),
                    values_Bk=arrays["values"].float(),
                    log_sum_exp_BT=arrays["log_sum_exp"],
                    temperatures=self.coding.temperatures,
                    num_classes=self.coding.shape[-1],
                )
