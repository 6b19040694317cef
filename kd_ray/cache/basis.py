"""A basis of few directions that explain most of the variance: what an output is reduced to before it is stored.

Shape letters: X anything, D channels, k directions.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.hadamard import spreading
from kd_ray.cache.phi_s import principal_directions
from kd_ray.cache.second_moments import SecondMoments
from kd_ray.errors import ExtractionError

Floats = NDArray[np.float32]

RECIPE = "phi-s of principal directions 1"
# Of more tokens every n-th: at 1536 channels a token costs 5 Mflop.
MAX_TOKENS = 1 << 16
TOKENS_AT_ONCE = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Basis:
    """`directions_kD` are orthonormal rows, turned within their span so that all coefficients vary alike (PHI-S);
    `unexplained` is the share of the variance of `num_tokens` tokens that they leave out.
    """

    center_D: Floats
    directions_kD: Floats
    unexplained: float
    num_tokens: int

    @staticmethod
    def of(values: NDArray[Any], *, explained_variance: float, what: str) -> "Basis":
        """The fewest principal directions of tokens [..., D] that explain the share `explained_variance` of them.

        Raises:
            ExtractionError: there are not more tokens than channels, or no channel varies; `what` says whose.
        """
        tokens_XD = values.reshape(-1, values.shape[-1])
        tokens_XD = tokens_XD[:: -(-len(tokens_XD) // MAX_TOKENS)]
        count, width = tokens_XD.shape
        if count <= width:
            raise ExtractionError(
                f"{what}: a basis of {width} channels cannot be told from {count} tokens, which lie in fewer "
                "directions themselves. Remove basis, or use larger row groups (corpus.row_group_size)."
            )
        starts = range(0, count, TOKENS_AT_ONCE)
        parts = (SecondMoments.of(tokens_XD[start : start + TOKENS_AT_ONCE]) for start in starts)
        moments = reduce(SecondMoments.merged, parts)
        variances_D, directions_DD = principal_directions(moments.covariance())
        if not variances_D[0] > 0:
            raise ExtractionError(f"{what}: no channel varies over {count} tokens. Check the teacher, or remove basis.")
        explained_D = np.cumsum(variances_D) / variances_D.sum()
        k = min(int(np.searchsorted(explained_D, explained_variance)) + 1, width)
        return Basis(
            center_D=moments.mean_D.astype(np.float32),
            directions_kD=(spreading(variances_D[:k]) @ directions_DD[:, :k].T).astype(np.float32),
            unexplained=max(1.0 - float(explained_D[k - 1]), 0.0),
            num_tokens=count,
        )

    def coefficients(self, values: NDArray[Any]) -> Floats:
        """[..., k] of values [..., D]."""
        centred = np.asarray(values, np.float32) - self.center_D
        return (centred @ self.directions_kD.T).astype(np.float32, copy=False)

    def values(self, coefficients: NDArray[Any]) -> Floats:
        """[..., D]: what the coefficients say of them."""
        turned = np.asarray(coefficients, np.float32) @ self.directions_kD
        return (turned + self.center_D).astype(np.float32, copy=False)
