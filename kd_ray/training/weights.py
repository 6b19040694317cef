"""What samples weigh where a recipe draws some more often than others (`train.data_weight_mode`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.words import Ints
from kd_ray.config.train import DataWeightBy, DataWeightMode


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighting:
    """Samples in groups of equal weight: `groups` [N] has the group of each, `weights` what one of a group weighs."""

    groups: Ints
    weights: Sequence[float]


def frequency_weight(mode: DataWeightMode, count: int) -> float:
    """What one of `count` equal things weighs."""
    match mode:
        case "none":
            return 1.0
        case "inv_frequency":
            return 1 / count
        case "inv_sq_frequency":
            return 1 / count**2
        case "inv_log_frequency":
            return 1 / math.log(count + 1)
        case _:
            assert_never(mode)


def weigh(mode: DataWeightMode, by: DataWeightBy, *, labels: NDArray[np.int32], copies: NDArray[np.int32]) -> Weighting:
    """The weights of one source's samples; those without a usable label (-1) are a class of their own.

    By duplicates, each of the c equal images that a sample stands for weighs what `mode` says, so the sample c times as
    much. Mode "none" weighs samples equally whatever they stand for.
    """
    match by:
        case "label":
            _, groups, counts = np.unique(labels, return_inverse=True, return_counts=True)
            weights = [frequency_weight(mode, int(count)) for count in counts]
        case "duplicates":
            values, groups = np.unique(copies, return_inverse=True)
            weights = [1.0 if mode == "none" else int(c) * frequency_weight(mode, int(c)) for c in values]
        case _:
            assert_never(by)
    return Weighting(groups=groups.astype(np.int64), weights=weights)
