"""Waiting: it looks again with growing pauses, tells what it waits for, and gives up only where nothing moves."""

import threading
from collections.abc import Callable, Iterator

import pytest

from kd_ray.errors import CacheIncomplete
from kd_ray.training.waiting import Patience, Waiting

BRIEF = Waiting(limit_s=10, first_pause_s=0.001, longest_pause_s=0.002)


def found_after(looks: int) -> Callable[[], str | None]:
    remaining = iter([None] * looks)
    return lambda: next(remaining, "found")


class Clock:
    """Goes on by `step_s` each time it is read."""

    def __init__(self, step_s: float) -> None:
        self._now_s, self._step_s = 0.0, step_s

    def __call__(self) -> float:
        self._now_s += self._step_s
        return self._now_s


def counts(*values: int) -> Callable[[], int]:
    """One after another, then the last for ever."""
    given: Iterator[int] = iter(values)
    return lambda: next(given, values[-1])


def test_what_is_there_is_given_at_once() -> None:
    notes: list[str] = []
    patience = Patience(BRIEF, num_committed=counts(0), on_wait=notes.append)
    assert patience.wait_for(found_after(0), what="it", where="here") == "found"
    assert notes == []


def test_it_tells_what_it_waits_for_and_since_when_at_every_look() -> None:
    notes: list[str] = []
    patience = Patience(BRIEF, num_committed=counts(0), on_wait=notes.append)
    assert patience.wait_for(found_after(4), what="unit a", where="here") == "found"
    assert len(notes) == 4
    assert len(set(notes)) == 1
    assert notes[0].startswith("waits for unit a since ")
    assert notes[0].endswith(" UTC")


def test_it_gives_up_where_nothing_was_committed_for_the_limit() -> None:
    patience = Patience(BRIEF, num_committed=counts(3), on_wait=lambda _note: None, clock=Clock(1))
    with pytest.raises(CacheIncomplete, match=r"here: unit a is not committed, and nothing .* last 10 s"):
        patience.wait_for(found_after(1000), what="unit a", where="here")


def test_as_long_as_other_units_are_committed_it_waits_on() -> None:
    growing = counts(*range(50))
    patience = Patience(BRIEF, num_committed=growing, on_wait=lambda _note: None, clock=Clock(4))
    assert patience.wait_for(found_after(100), what="unit a", where="here") == "found"


def test_and_gives_up_once_they_are_no_longer() -> None:
    patience = Patience(BRIEF, num_committed=counts(0, 1, 2), on_wait=lambda _note: None, clock=Clock(4))
    with pytest.raises(CacheIncomplete, match="unit a is not committed"):
        patience.wait_for(found_after(1000), what="unit a", where="here")


def test_stopping_ends_the_pause() -> None:
    slow = Waiting(limit_s=3600, first_pause_s=3600, longest_pause_s=3600)
    patience = Patience(slow, num_committed=counts(0), on_wait=lambda _note: threading.Timer(0.01, stop).start())
    stop = patience.stop
    with pytest.raises(CacheIncomplete, match="was not committed before the run ended"):
        patience.wait_for(found_after(1000), what="unit a", where="here")
