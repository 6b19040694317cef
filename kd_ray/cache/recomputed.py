"""How far stored targets are from what the teacher says now, beyond what their codec and its precision round away.

Both sides go through the codec, so whatever it leaves out is left out of both: what was stored is Q(x), what is
computed again Q(x + δ), and |Q(x) - Q(x + δ)| <= |δ| + one step of the codec at that place. The steps are taken off
value by value, and what is left is told in deviations of the output.

Shape letters: N samples, X anything, D channels, K classes, T temperatures.
"""

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding, TopK
from kd_ray.cache.statistics import ChannelStatistics
from kd_ray.config.teacher import Precision

# Of the numbers that a teacher computes with: the greatest distance of two neighbours over the smaller one.
STEPS: Mapping[Precision, float] = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# What sums in another order, on another machine or in another batch, may add up to, in deviations of the output.
TOLERANCES: Mapping[Precision, float] = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
LEAST_FLOAT16_STEP = 2.0**-24

Array = NDArray[Any]
Doubles = NDArray[np.float64]


def deviation_of(statistics: ChannelStatistics) -> float:
    """The root of the mean variance of the channels; where none varies that of the mean square, and 1 for zeros."""
    spread = float(np.sqrt(statistics.variance.mean()))
    return spread or float(np.sqrt((statistics.mean**2).mean())) or 1.0


def errors(
    coding: Coding,
    stored: Mapping[str, Array],
    computed_N: NDArray[np.float32],
    *,
    calibration: Calibration | None,
    precision: Precision,
    deviation: float,
    what: str,
) -> Doubles:
    """[N]: of each sample, its worst token's root mean square error beyond rounding, in deviations of the output.

    `stored` are arrays [N, …] as `Coding.encode` names them, `computed_N` [N, …] what the teacher gives, `deviation`
    that of `deviation_of`.

    Raises:
        ExtractionError: the codec cannot store what was computed; `what` says whose.
    """
    encoded = coding.encode(computed_N[None], calibration=calibration, what=what)
    again = {name: array[0] for name, array in encoded.items()}
    if coding.codec == "top_k":
        difference, step = _of_top_k(coding, stored, computed_N)
        values = np.abs(computed_N).astype(np.float64).max(axis=-1, keepdims=True)
    else:
        inner = coding.as_stored(calibration)  # of a basis the coefficients, whose directions keep lengths
        old, new = (inner.decode(each, calibration=calibration).astype(np.float64) for each in (stored, again))
        difference, values = np.abs(old - new), np.abs(new)
        step = _steps(inner, again, values, calibration=calibration)
    beyond = np.maximum(difference - step - STEPS[precision] * values, 0.0)
    width = beyond.shape[-1] if coding.codec == "top_k" else coding.shape[-1]
    of_token = np.sqrt((beyond**2).sum(axis=-1) / width) / deviation
    result_N: Doubles = of_token.reshape(len(computed_N), -1).max(axis=-1)
    return result_N


def _steps(coding: Coding, again: Mapping[str, Array], values: Doubles, *, calibration: Calibration | None) -> Doubles:
    """Between neighbours that the codec can store at each of `values`, which are those of `again`: a stored scale that
    is too large hides nothing.
    """
    match coding.codec:
        case "float32":
            return STEPS["float32"] * values
        case "float16":
            return np.maximum(STEPS["float16"] * values, LEAST_FLOAT16_STEP)
        case "bfloat16":
            return STEPS["bfloat16"] * values
        case "int8":
            assert calibration is not None
            scale: Doubles = again["scale"].astype(np.float64)[..., None]
            return scale * calibration.deviation_D
        case "uint8":
            step: Doubles = again["step"].astype(np.float64)[..., None]
            return step
        case "top_k":
            raise AssertionError("is not decoded to values")
        case _:
            assert_never(coding.codec)


def _of_top_k(coding: Coding, stored: Mapping[str, Array], computed_NK: NDArray[np.float32]) -> tuple[Doubles, Doubles]:
    """Differences and steps [N, …, 2 k + T] of the kept logits by class, of the greatest by rank, and T log-sum-exps.

    By rank, because classes with all but equal logits may change places at the end of those that are kept.
    """
    kept = TopK.from_arrays(stored, coding.temperatures)
    maximum = kept.maximum.astype(np.float64)[..., None]
    lowered = kept.values.astype(np.float64)
    exact = computed_NK.astype(np.float64)
    by_class = np.take_along_axis(exact, kept.indices.astype(np.int64), axis=-1)
    by_rank = -np.sort(-exact, axis=-1)[..., : lowered.shape[-1]]
    temperatures_T = np.array(coding.temperatures)
    highest = exact.max(axis=-1, keepdims=True)
    sums = [np.log(np.exp((exact - highest) / t).sum(axis=-1)) * t for t in coding.temperatures]
    log_sums = np.stack(sums, axis=-1) + highest
    stored_sums = kept.log_sum_exp.astype(np.float64) * temperatures_T + maximum
    differences = [maximum + lowered - by_class, maximum + lowered - by_rank, stored_sums - log_sums]
    of_kept = np.maximum(STEPS["float16"] * np.abs(lowered), LEAST_FLOAT16_STEP)
    steps = [of_kept, of_kept, STEPS["float32"] * np.abs(stored_sums)]
    return np.abs(np.concatenate(differences, axis=-1)), np.concatenate(steps, axis=-1)
