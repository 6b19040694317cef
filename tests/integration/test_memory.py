"""A teacher whose memory is too small for a batch goes on with less of it at once, and gives the same."""

import errno
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd_ray.errors import ExtractionError
from kd_ray.teachers.memory import Slices, is_out_of_memory

Pixels = NDArray[np.uint8]


def pixels(count: int) -> Pixels:
    return np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)


def holds(limit: int, tried: list[int]) -> Callable[[Pixels], list[int]]:
    """A forward that runs out of memory above `limit` views."""

    def forward(part: Pixels) -> list[int]:
        tried.append(len(part))
        if len(part) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [int(each) for each in part.ravel()]

    return forward


def through(slices: Slices, forward: Callable[[Pixels], list[int]], count: int) -> list[int]:
    return [each for part in slices.through(forward, pixels(count)) for each in part]


def test_the_batch_is_halved_until_it_fits_and_every_view_comes_once_in_order() -> None:
    slices, tried = Slices(32), list[int]()
    assert through(slices, holds(9, tried), 40) == list(range(40))
    assert tried == [32, 16, 8, 8, 8, 8, 8]
    assert slices.size == 8


def test_what_fits_is_remembered() -> None:
    slices, tried = Slices(32), list[int]()
    through(slices, holds(20, tried), 32)
    tried.clear()
    assert through(slices, holds(20, tried), 40) == list(range(40))
    assert tried == [16, 16, 8]


def test_a_short_batch_that_does_not_fit_is_halved_from_what_it_was() -> None:
    slices, tried = Slices(64), list[int]()
    through(slices, holds(3, tried), 6)
    assert tried == [6, 3, 3]


def test_a_single_view_that_does_not_fit_is_an_error_with_a_way_out() -> None:
    slices, tried = Slices(4), list[int]()
    with pytest.raises(ExtractionError, match="does not hold a single view"):
        through(slices, holds(0, tried), 4)
    assert tried == [4, 2, 1]


def test_other_errors_pass() -> None:
    def broken(part: Pixels) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Slices(4).through(broken, pixels(4))


def test_an_allocation_that_pytorch_really_refuses_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
