"""Rows of a batch, gathered from the arrays of several spans."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.training.targets import ALIGNMENT, LARGE_ROW_BYTES, gathered


def _at(offset: int, array: NDArray[Any]) -> NDArray[Any]:
    """The same array, so many bytes behind a multiple of ALIGNMENT."""
    memory = np.empty(array.nbytes + 2 * ALIGNMENT, np.uint8)
    start = (-memory.ctypes.data) % ALIGNMENT + offset
    placed = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


@pytest.mark.parametrize("row_bytes", [2, 512, LARGE_ROW_BYTES, 3 * LARGE_ROW_BYTES + 2])
@pytest.mark.parametrize("offset", [0, 4, 12])
def test_every_row_comes_to_its_place_from_wherever_it_lies(row_bytes: int, offset: int) -> None:
    random = np.random.default_rng(0)
    spans = [_at(offset + 2 * index, random.normal(size=(5, row_bytes // 2)).astype("<f2")) for index in range(3)]
    picks = [(spans[span], row) for span, row in [(0, 4), (2, 0), (0, 4), (1, 3), (2, 1), (0, 0)]]
    found = gathered(picks).numpy()
    assert np.array_equal(found, np.stack([array[row] for array, row in picks]))
    if row_bytes >= LARGE_ROW_BYTES:  # as the first of them lies, which is what makes the copy fast
        assert found.ctypes.data % ALIGNMENT == offset
