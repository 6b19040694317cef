"""Which differences of stored and recomputed targets are rounding, and which are not."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.cache.codecs import Coding
from kd_ray.cache.recomputed import deviation_of, errors
from kd_ray.cache.statistics import ChannelStatistics

SHAPE = (3, 16)
CODINGS = [
    *(Coding(codec=name, shape=SHAPE) for name in ("float32", "float16", "bfloat16", "int8", "uint8")),
    *(Coding(codec=name, shape=SHAPE, explained_variance=0.99) for name in ("float16", "int8")),
    Coding(codec="top_k", shape=SHAPE, k=5, temperatures=(1.0, 4.0)),
]


def values(seed: int = 0) -> NDArray[np.float32]:
    """[sample, token, channel] with unlike channels around a common offset."""
    random = np.random.default_rng(seed)
    return (5 + random.normal(size=(8, *SHAPE)) * np.linspace(0.5, 2, SHAPE[-1])).astype(np.float32)


def error_of(coding: Coding, stored_N: NDArray[Any], computed_N: NDArray[Any], **forged: Any) -> NDArray[np.float64]:
    calibration = coding.calibrate(stored_N, what="calibrating")
    arrays = coding.encode(stored_N[None], calibration=calibration, what="stored")
    return errors(
        coding,
        {name: array[0] for name, array in arrays.items()} | forged,
        computed_N,
        calibration=calibration,
        precision="float32",
        deviation=deviation_of(ChannelStatistics.of(stored_N)),
        what="computed",
    )


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: f"{coding.codec}{coding.explained_variance or ''}")
def test_the_rounding_of_every_codec_is_none(coding: Coding) -> None:
    nudged = values() * np.float32(1 + 2e-7)
    assert error_of(coding, values(), nudged).max() < 1e-5


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: f"{coding.codec}{coding.explained_variance or ''}")
def test_one_other_token_is_an_error_of_its_sample_alone(coding: Coding) -> None:
    computed = values()
    computed[3, 1] = values(seed=1)[3, 1]
    found = error_of(coding, values(), computed)
    assert found[3] > 0.5
    assert np.delete(found, 3).max() < 1e-5


def test_an_error_is_told_in_deviations_of_the_output() -> None:
    deviation = deviation_of(ChannelStatistics.of(values()))
    found = error_of(CODINGS[0], values(), values() + np.float32(0.25 * deviation))
    np.testing.assert_allclose(found, 0.25, rtol=1e-3)


def test_a_forged_scale_hides_nothing() -> None:
    int8 = CODINGS[3]
    scale = np.full((8, SHAPE[0]), 100.0, "<f2")
    assert error_of(int8, values(), values(), scale=scale).min() > 1


def test_top_k_of_other_classes_or_another_log_sum_is_an_error() -> None:
    top_k, stored = CODINGS[-1], values()
    tail_moved = stored.copy()
    np.put_along_axis(tail_moved, np.argsort(stored, axis=-1)[..., :1], stored.max() + 3, axis=-1)
    assert error_of(top_k, stored, tail_moved).min() > 0.5
    sums = {"log_sum_exp": np.zeros((8, SHAPE[0], 2), "<f4")}
    assert error_of(top_k, stored, stored, **sums).min() > 0.1


def test_an_output_that_never_varies_has_a_scale_too() -> None:
    constant = ChannelStatistics.of(np.full((4, 2), 3.0))
    assert deviation_of(constant) == 3.0
    assert deviation_of(ChannelStatistics.of(np.zeros((4, 2)))) == 1.0
