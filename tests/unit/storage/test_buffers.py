"""Memory that is used again: when, and never while somebody still looks at it."""

import threading

import numpy as np
import pytest
import torch

from kd_ray.storage.buffers import LEAST_BYTES, STEP_BYTES, Buffers

LARGE = 4 * LEAST_BYTES


def address_of(array: np.ndarray) -> int:
    return array.ctypes.data


def test_a_block_comes_back_when_the_last_array_made_from_it_ends() -> None:
    buffers = Buffers()
    taken = buffers.take(LARGE)
    address = address_of(taken)
    part = taken.view(np.float16).reshape(2, -1)[1][5:]
    del taken
    assert buffers.idle_bytes == 0
    assert address_of(buffers.take(LARGE)) != address
    del part
    assert address_of(buffers.take(LARGE)) == address


def test_a_tensor_holds_its_memory_too() -> None:
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.take(LARGE).view(np.float32))[7:]
    assert buffers.idle_bytes == 0
    del tensor
    assert buffers.idle_bytes == LARGE


@pytest.mark.parametrize("num_bytes", [0, 1, LEAST_BYTES - 1, LEAST_BYTES, LEAST_BYTES + 1, LARGE + 7])
def test_arrays_have_the_length_asked_for_and_can_be_written(num_bytes: int) -> None:
    array = Buffers().take(num_bytes)
    assert array.shape == (num_bytes,)
    array[...] = 3
    assert array.sum() == 3 * num_bytes


def test_lengths_that_hardly_differ_share_blocks() -> None:
    buffers = Buffers()
    first = buffers.take(LARGE + 1)
    address = address_of(first)
    del first
    assert address_of(buffers.take(LARGE + STEP_BYTES)) == address


def test_no_more_is_kept_than_was_in_use_at_once() -> None:
    buffers = Buffers()
    for length in range(1, 40):
        array = buffers.take(LARGE + length * STEP_BYTES)  # each of another length: none serves the next one
        del array
        assert buffers.idle_bytes <= LARGE + length * STEP_BYTES
    held = [buffers.take(LARGE) for _ in range(8)]
    del held
    assert buffers.idle_bytes <= 8 * LARGE + LARGE + 40 * STEP_BYTES


def test_threads_never_get_one_block_at_a_time() -> None:
    buffers = Buffers()
    mixed_up: list[int] = []

    def use(number: int) -> None:
        for _ in range(200):
            array = buffers.take(LARGE)
            array[:: LARGE // 64] = number
            if not (array[:: LARGE // 64] == number).all():
                mixed_up.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed_up
    assert buffers.idle_bytes <= 4 * LARGE
