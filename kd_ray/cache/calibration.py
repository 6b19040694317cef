"""Means and deviations by channel, and a basis where one is asked for, fixed before the first value is stored.

The first created stays, whoever made it.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.basis import Basis
from kd_ray.cache.units import Span, Unit
from kd_ray.errors import CacheCorrupt
from kd_ray.storage.base import canonical_json
from kd_ray.storage.checksum import crc32c

Floats = NDArray[np.float32]

# Of the mean deviation. A channel that is dead in the calibrating views and wakes later takes the scale of its whole
# vector: at a thousandth it could leave nothing of the other channels.
LEAST_SHARE = 0.1
MAX_VIEWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """float32 [D] each; a channel that hardly varies counts as varying a tenth as much as the mean channel.

    With a basis, channels are its coefficients.
    """

    RECIPE: ClassVar[str] = "mean and deviation by channel 1"

    mean_D: Floats
    deviation_D: Floats
    basis: Basis | None = None

    @staticmethod
    def of(values: NDArray[Any]) -> "Calibration":
        """Of values [..., D], in float64."""
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        deviation_D = rows.std(axis=0)
        least = LEAST_SHARE * deviation_D.mean() or 1.0
        return Calibration(
            mean_D=rows.mean(axis=0).astype(np.float32),
            deviation_D=np.maximum(deviation_D, least).astype(np.float32),
        )

    @staticmethod
    def with_basis(values: NDArray[Any], *, explained_variance: float, what: str) -> "Calibration":
        """Of values [..., D], by the coefficients in a basis of them; raises what `Basis.of` does."""
        basis = Basis.of(values, explained_variance=explained_variance, what=what)
        return replace(Calibration.of(basis.coefficients(values)), basis=basis)

    @property
    def num_channels(self) -> int:
        """D of the values as a teacher gives them."""
        return len(self.mean_D if self.basis is None else self.basis.center_D)

    def to_json(self) -> bytes:
        """Canonical JSON; vectors as base64 of little-endian float32, and the crc32c of all of it."""
        record: dict[str, Any] = {"mean": _packed(self.mean_D), "deviation": _packed(self.deviation_D)}
        if self.basis is not None:
            record["basis"] = {
                "center": _packed(self.basis.center_D),
                "directions": _packed(self.basis.directions_kD),
                "unexplained": self.basis.unexplained,
                "tokens": self.basis.num_tokens,
            }
        return canonical_json({**record, "crc32c": crc32c(canonical_json(record))})

    @staticmethod
    def from_json(data: bytes, *, location: str) -> "Calibration":
        """The inverse of `to_json`.

        Raises:
            CacheCorrupt: it is something else, or has changed since.
        """
        try:
            record = _checked_record(data)
            return Calibration(
                mean_D=_unpacked(record["mean"]),
                deviation_D=_unpacked(record["deviation"]),
                basis=_basis(record["basis"]) if "basis" in record else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheCorrupt(
                f"{location}: is not a readable calibration: {error}. Restore it: no value of this output can be read "
                "without it."
            ) from error


def calibrating_unit(first: Unit) -> Unit:
    """What an output is calibrated from: the first views of the first row group of a view set's `first` unit."""
    start = first.span.group_start
    return Unit(
        span=Span(shard=first.span.shard, group_start=start, group_stop=start + 1),
        view_start=first.view_start,
        view_stop=min(first.view_stop, first.view_start + MAX_VIEWS),
    )


def _checked_record(data: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(data)
    stored = record.pop("crc32c")
    actual = crc32c(canonical_json(record))
    if stored != actual:
        raise ValueError(f"crc32c is {actual}, stored {stored}")
    return record


def _basis(record: Mapping[str, Any]) -> Basis:
    center_D = _unpacked(record["center"])
    return Basis(
        center_D=center_D,
        directions_kD=_unpacked(record["directions"]).reshape(-1, len(center_D)),
        unexplained=record["unexplained"],
        num_tokens=record["tokens"],
    )


def _packed(vector_D: Floats) -> str:
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
