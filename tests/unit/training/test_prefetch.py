"""An iterator run ahead in a thread: same items, same order, same error, and an end."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kd_ray.training.prefetch import prefetched

PATIENCE_S = 5.0


def eventually(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    return condition()


def num_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


class Counting:
    """0, 1, 2, … endlessly; knows how far it has got and whether it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.made += 1
        return self.made - 1

    def close(self) -> None:
        self.closed = True


def test_items_come_in_order_and_end() -> None:
    assert list(prefetched(iter(range(100)), depth=3)) == list(range(100))


def test_the_end_can_be_met_again() -> None:
    items = prefetched(iter([1]), depth=2)
    assert list(items) == [1]
    with pytest.raises(StopIteration):
        next(items)


def test_only_depth_items_are_made_ahead() -> None:
    source = Counting()
    items = prefetched(source, depth=3)
    # three in the queue and one in the hand of the thread
    assert eventually(lambda: source.made == 4)
    time.sleep(0.02)
    assert source.made == 4
    items.close()


def test_an_error_inside_is_raised_where_the_item_was_due() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third item")

    items = prefetched(failing(), depth=8)
    assert [next(items), next(items)] == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="third item"):
            next(items)


def test_close_ends_the_thread_and_the_iterator_under_a_full_queue() -> None:
    before, source = num_threads(), Counting()
    items = prefetched(source, depth=2)
    assert eventually(lambda: source.made == 3)
    assert num_threads() == before + 1
    items.close()
    assert num_threads() == before
    assert source.closed


def test_a_closed_stream_is_at_its_end_and_does_not_wait() -> None:
    items = prefetched(Counting(), depth=2)
    items.close()
    with pytest.raises(StopIteration):
        next(items)
