"""How the numbers of an output are stored, and what cannot be stored is refused."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.models import Codec
from kd_ray.errors import ExtractionError

FLOAT16_MAX = 65504.0


def encode(values: NDArray[np.float32], codec: Codec, *, what: str) -> NDArray[Any]:
    """`values` in the type of `codec`.

    Raises:
        ExtractionError: a value is not finite, or does not fit; `what` says whose.
    """
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))[:5].tolist()
        raise ExtractionError(
            f"{what}: outputs of rows {rows} are not finite. Check the teacher's weights and precision."
        )
    if codec == "float16":
        largest = float(np.abs(values).max(initial=0.0))
        if largest > FLOAT16_MAX:
            raise ExtractionError(
                f"{what}: {largest:.3g} does not fit float16 (65504). Set the output's codec: float32."
            )
        return values.astype("<f2")
    return values.astype("<f4")


def bytes_per_value(codec: Codec) -> int:
    """What one stored number takes."""
    return {"float32": 4, "float16": 2}[codec]
