"""Per-channel statistics of one unit, mergeable in any order: count, mean, variance and extremes."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK_VALUES = 1 << 15  # of rows that become float64 at a time: 256 KiB, which stay in a core's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatistics:
    """Statistics over the last axis; `variance` is the population's (divided by `count`)."""

    count: int
    mean: Floats
    variance: Floats
    minimum: Floats
    maximum: Floats

    @staticmethod
    def of(values: NDArray[Any]) -> "ChannelStatistics":
        """Of an array [..., D], in float64: sums and squares of what its values differ from a mean of some of them.

        With such a mean one pass is as exact as two (Chan, Golub and LeVeque 1983, shifted data).
        """
        rows = values.reshape(-1, values.shape[-1])
        num_rows = max(1, BLOCK_VALUES // max(rows.shape[1], 1))
        shift = rows[:: max(len(rows) // num_rows, 1)].mean(axis=0, dtype=np.float64)
        around = np.empty((num_rows, rows.shape[1]))
        ones = np.ones(num_rows)
        sums, squares = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        minimum, maximum = rows[0].copy(), rows[0].copy()
        for start in range(0, len(rows), num_rows):
            block = rows[start : start + num_rows]
            difference = np.subtract(block, shift, out=around[: len(block)])
            sums += ones[: len(block)] @ difference
            squares += np.einsum("nd,nd->d", difference, difference)
            np.minimum(minimum, block.min(axis=0), out=minimum)
            np.maximum(maximum, block.max(axis=0), out=maximum)
        off = sums / len(rows)
        return ChannelStatistics(
            count=len(rows),
            mean=shift + off,
            variance=np.maximum(squares / len(rows) - off**2, 0.0),
            minimum=minimum.astype(np.float64),
            maximum=maximum.astype(np.float64),
        )

    def merged(self, other: "ChannelStatistics") -> "ChannelStatistics":
        """Of both populations together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        squares = self.variance * self.count + other.variance * other.count
        squares = squares + delta**2 * (self.count * other.count / count)
        return ChannelStatistics(
            count=count,
            mean=mean,
            variance=squares / count,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
        )

    def to_json(self) -> dict[str, Any]:
        """Vectors as base64 of little-endian float64."""
        vectors = {name: getattr(self, name) for name in ("mean", "variance", "minimum", "maximum")}
        packed = {name: base64.b64encode(vector.astype("<f8").tobytes()).decode() for name, vector in vectors.items()}
        return {"count": self.count, **packed}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "ChannelStatistics":
        """The inverse of `to_json`, bit for bit."""

        def vector(name: str) -> Floats:
            return np.frombuffer(base64.b64decode(value[name]), dtype="<f8").astype(np.float64)

        return ChannelStatistics(
            count=int(value["count"]),
            mean=vector("mean"),
            variance=vector("variance"),
            minimum=vector("minimum"),
            maximum=vector("maximum"),
        )
