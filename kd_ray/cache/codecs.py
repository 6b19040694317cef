"""How the numbers of an output are stored, and what cannot be stored is refused."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.models import Codec
from kd_ray.errors import ExtractionError

FLOAT16_MAX = 65504.0


def encode(values_VND: NDArray[np.float32], codec: Codec, *, what: str) -> NDArray[Any]:
    """Values [view, sample, …] in the type of `codec`.

    Raises:
        ExtractionError: a value is not finite, or does not fit; `what` says whose.
    """
    finite = np.isfinite(values_VND)
    if not finite.all():
        bad_VN = ~finite.all(axis=tuple(range(2, values_VND.ndim)))
        places = ", ".join(f"{view}/{row}" for view, row in np.argwhere(bad_VN)[:5])
        raise ExtractionError(
            f"{what}: {bad_VN.sum()} of {bad_VN.size} outputs are not finite; the first, as view/row of the unit "
            f"counted from 0: {places}. Check the teacher's weights and precision."
        )
    if codec == "float16":
        largest = float(np.abs(values_VND).max(initial=0.0))
        if largest > FLOAT16_MAX:
            raise ExtractionError(
                f"{what}: {largest:.3g} does not fit float16 (65504). Set the output's codec: float32."
            )
        return values_VND.astype("<f2")
    return values_VND.astype("<f4")


def bytes_per_value(codec: Codec) -> int:
    """What one stored number takes."""
    return {"float32": 4, "float16": 2}[codec]
