"""Teachers that are left out at random, sample by sample: a student must not lean on the easiest one.

Shape letters: B batch, T teachers, n kept samples of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.training.encoded import Target, TopKTargets
from kd_ray.training.losses.labels import Labels

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
BITS_OF_A_SHARE = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherDropout:
    """Each teacher is left out of a sample at a step with `probability`, but for one that is drawn to stay.

    As in UNIC (Sariyildiz et al. 2024), where it is the one with the greatest loss that stays. With T teachers a
    teacher is left out of a share `probability` (T - 1) / T of all samples.
    """

    probability: float
    seed: int

    def kept(self, names: Sequence[str], sample_ids_B: NDArray[np.uint64], *, step: int) -> dict[str, Tensor]:
        """By teacher, which samples [B] it teaches; of seed, step and sample alone, whoever has the sample."""
        keys_B = _mixed(sample_ids_B ^ _mixed(_word(step) ^ _mixed(_word(self.seed))))
        stays_B = _mixed(keys_B ^ np.uint64(len(names))) % np.uint64(len(names))
        rows = {}
        for number, name in enumerate(names):
            draws_B = _mixed(keys_B ^ np.uint64(number)) >> np.uint64(64 - BITS_OF_A_SHARE)
            lasts_B = draws_B >= self.probability * 2.0**BITS_OF_A_SHARE
            rows[name] = torch.from_numpy(lasts_B | (stays_B == number))
        return rows


def _word(number: int) -> NDArray[np.uint64]:
    return np.array([number % 2**64], dtype=np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al. 2014): every bit of a value decides every bit of the result."""
    with np.errstate(over="ignore"):
        mixed = values + GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * MIX_2
    found: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return found


def kept_outputs(outputs: Mapping[str, Tensor], names: Sequence[str], rows_B: Tensor) -> dict[str, Tensor]:
    """The outputs `names` of the kept samples, [n, …]."""
    return {name: outputs[name][rows_B] for name in names if name in outputs}


def kept_labels(labels: Labels, rows_B: Tensor) -> Labels:
    """The labels of the kept samples."""
    return Labels(own_B=labels.own_B[rows_B], partner_B=labels.partner_B[rows_B], weights_B=labels.weights_B[rows_B])


def kept_target(target: Target, rows_B: Tensor) -> Target:
    """The target of the kept samples."""
    if isinstance(target, Tensor):
        return target[rows_B]
    return TopKTargets(
        indices_Bk=target.indices_Bk[rows_B],
        values_Bk=target.values_Bk[rows_B],
        log_sum_exp_BT=target.log_sum_exp_BT[rows_B],
        temperatures=target.temperatures,
        num_classes=target.num_classes,
    )
