"""Conversions that are faster than NumPy's give the very bits that NumPy gives."""

import numpy as np
import pytest

from kd_ray.cache.floats import extremes, row_blocks, to_float16


def test_every_half_and_what_lies_between_rounds_as_numpy_rounds_it() -> None:
    halves = np.arange(1 << 16, dtype="<u2").view("<f2")
    exact = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    between = ((exact[1:].astype(np.float64) + exact[:-1]) / 2).astype(np.float32)
    nearly = [np.nextafter(between, np.float32(limit)) for limit in (-np.inf, np.inf)]
    tiny = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, 2**-25, -(2**-25)], np.float32)
    values = np.concatenate([exact, between, *nearly, tiny])
    assert to_float16(values).tobytes() == values.astype("<f2").tobytes()


@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 5), (0, 4), (1,)])
def test_halves_keep_the_shape_also_of_strided_values(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)[..., 0]
    assert np.array_equal(to_float16(values), values.astype("<f2"))


def test_extremes_are_nan_where_any_value_is() -> None:
    assert extremes(np.array([[1, -2], [3, 0]], np.float32)) == (-2.0, 3.0)
    assert extremes(np.empty((0, 3), np.float32)) == (0.0, 0.0)
    assert np.isnan(extremes(np.array([1.0, np.nan, -np.inf], np.float32))).all()


@pytest.mark.parametrize(("num_rows", "width"), [(1, 3), (1000, 1536), (2, 1 << 20)])
def test_blocks_cover_every_row_once(num_rows: int, width: int) -> None:
    rows = np.broadcast_to(np.float32(0), (num_rows, width))
    covered = np.zeros(num_rows, int)
    for part in row_blocks(rows):
        covered[part] += 1
    assert (covered == 1).all()
