"""PHI-S: targets turned and scaled as a whole, so that every channel has mean 0 and variance 1.

t' = α H Uᵀ (t - μ) with Σ = U Λ Uᵀ and α = 1 / √mean(λ) (Ranzinger et al. 2024, arXiv 2410.01680). H is orthogonal and
gives all channels the same variance. Shape letters: D channels, X anything.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.framed import decode_framed, encode_framed
from kd_ray.cache.hadamard import spreading
from kd_ray.cache.second_moments import SecondMoments
from kd_ray.errors import CacheCorrupt, ExtractionError

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

KIND = "phi_s"
RECIPE = 1  # goes up when the same second moments are to give another rotation
ADVICE = "Restore it: students were trained on targets that it has turned."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhiS:
    """`rotation_DD` is H Uᵀ in float32 and `alpha` α, made from `count` tokens whose covariance has the rank `rank`.

    Where the rank is below D (dead channels, or fewer tokens than channels), the map is α times orthogonal all the
    same, and the variances of the channels, taken over those tokens, are 1 all the same: each has some of what varies.
    """

    mean_D: Floats
    rotation_DD: Floats
    alpha: float
    count: int
    rank: int

    @staticmethod
    def of(moments: SecondMoments, *, what: str) -> "PhiS":
        """From second moments.

        Raises:
            ExtractionError: no channel varies; `what` says whose.
        """
        variances_D, directions_DD = principal_directions(moments.covariance())
        if not variances_D.mean() > 0:
            raise ExtractionError(
                f"{what}: no channel varies over its {moments.count} tokens, so there is nothing to standardise. "
                "Check the teacher, or remove standardize."
            )
        return PhiS(
            mean_D=moments.mean_D.astype(np.float32),
            rotation_DD=(spreading(variances_D) @ directions_DD.T).astype(np.float32),
            alpha=1.0 / math.sqrt(variances_D.mean()),
            count=moments.count,
            rank=int((variances_D > 0).sum()),
        )

    def apply(self, targets: NDArray[Any]) -> Floats:
        """Targets [..., D] as the student is to give them."""
        centred = np.asarray(targets, np.float32) - self.mean_D
        return (centred @ (np.float32(self.alpha) * self.rotation_DD).T).astype(np.float32, copy=False)

    def invert(self, standardised: NDArray[Any]) -> Floats:
        """The inverse of `apply`."""
        turned = np.asarray(standardised, np.float32) @ (self.rotation_DD / np.float32(self.alpha))
        return (turned + self.mean_D).astype(np.float32, copy=False)

    def to_bytes(self) -> bytes:
        """As stored."""
        record = {"format": 1, "kind": KIND, "recipe": RECIPE}
        record |= {"alpha": self.alpha, "count": self.count, "rank": self.rank}
        return encode_framed(record, {"mean": self.mean_D, "rotation": self.rotation_DD})

    @staticmethod
    def from_bytes(data: bytes, *, location: str) -> "PhiS":
        """The inverse of `to_bytes`, bit for bit, whatever recipe it was made by.

        Raises:
            CacheCorrupt: it is something else, or has changed since.
        """
        record, arrays = decode_framed(data, location=location, advice=ADVICE)
        if (record.get("format"), record.get("kind")) != (1, KIND):
            raise CacheCorrupt(f"{location}: is not a transform of the kind {KIND} in format 1. {ADVICE}")
        return PhiS(
            mean_D=arrays["mean"],
            rotation_DD=arrays["rotation"],
            alpha=record["alpha"],
            count=record["count"],
            rank=record["rank"],
        )


def principal_directions(covariance_DD: Doubles) -> tuple[Doubles, Doubles]:
    """Variances, greatest first, and their directions [D, D], one a column, in which the greatest entry is positive.

    Variances that are nothing but rounding are 0. Directions of equal variances are not determined: any machine may
    give others, and so what has been made from them is kept, not made again.
    """
    ascending_D, directions_DD = np.linalg.eigh(covariance_DD)
    variances_D, directions_DD = ascending_D[::-1], directions_DD[:, ::-1]
    least = len(variances_D) * np.finfo(np.float64).eps * max(float(variances_D[0]), 0.0)
    greatest_D = np.take_along_axis(directions_DD, np.abs(directions_DD).argmax(axis=0)[None], axis=0)
    return np.where(variances_D > least, variances_D, 0.0), directions_DD * np.where(greatest_D < 0, -1.0, 1.0)
