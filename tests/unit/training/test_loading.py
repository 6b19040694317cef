"""Loading ahead: the same samples in the same order, while others are consumed, within two windows, errors when due."""

import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.order import Order
from kd_ray.cache.stream import SnapshotSpan, SourceSpans, Window
from kd_ray.corpus.packed import Rows
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from kd_ray.storage import open_storage
from kd_ray.storage.base import Storage
from kd_ray.training.loading import LOADS_AT_ONCE, OPEN_WINDOWS, LoadedSpan, Loader, Place
from tests.support.tiny_cache import unit

ROWS, WINDOW, NUM_SPANS, READ_S = 4, 4, 24, 0.02


def draws(*, num_spans: int = NUM_SPANS, lane: int = 0, num_lanes: int = 1) -> Iterator[tuple[Window, int]]:
    spans = [SnapshotSpan(span=unit(groups=(i, i + 1)).span, rows=tuple(range(ROWS))) for i in range(num_spans)]
    source = SourceSpans(name="", weight=1, spans=spans, recurrence=None)
    return Order(sources=[source], seed=0, num_lanes=num_lanes, window=WINDOW).draws(lane, skip=0)


class SlowReads:
    """A storage each read of which takes READ_S more, and what is held in memory of what was read."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self.read: list[int] = []
        self.at_once = self.most_at_once = 0

    def rows(self, place: Place) -> Rows:
        with self._lock:
            self.read.append(place.span_index)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(READ_S)
        data = self._storage.read(f"span-{place.span_index}")
        with self._lock:
            self.at_once -= 1
        none = np.empty(0, np.int32)
        ids = np.frombuffer(data, np.uint64)
        return Rows(sample_ids=ids, labels=none, sizes_px=none.reshape(0, 2), images=[], rows_per_group=(ROWS,))


@pytest.fixture
def slow(tmp_path: Path) -> SlowReads:
    storage = open_storage(str(tmp_path))
    for index in range(NUM_SPANS):
        storage.write(f"span-{index}", np.arange(index * ROWS, (index + 1) * ROWS, dtype=np.uint64).tobytes())
    return SlowReads(storage)


def places(window: Window, place: int) -> tuple[Place, ...]:
    return (Place(source=0, span_index=int(window.span_indices[place]), kind=0, view_index=0),)


def loaded(place: Place, rows: Rows) -> LoadedSpan:
    return LoadedSpan(rows=rows, views=None, label_of={}, view_index=place.view_index, targets={})


def ids_of(loader: Loader, samples: Iterator[tuple[Window, int]], count: int) -> list[int]:
    drawn = islice(loader.drawn(samples), count)
    return [int(spans[0].rows.sample_ids[window.rows[place]]) for window, place, spans in drawn]


def test_samples_come_in_the_order_of_the_draws_with_what_is_theirs(slow: SlowReads) -> None:
    count = NUM_SPANS * ROWS
    expected = [int(w.span_indices[p]) * ROWS + int(w.rows[p]) for w, p in islice(draws(), count)]
    with Loader(places=places, read_rows=slow.rows, load=loaded) as loader:
        assert ids_of(loader, draws(), count) == expected
    assert sorted(expected) == list(range(count))


def test_a_slow_storage_is_read_while_samples_are_consumed(slow: SlowReads) -> None:
    per_sample_s = READ_S / ROWS  # consuming takes as long as reading one span after another
    with Loader(places=places, read_rows=slow.rows, load=loaded) as loader:
        started_s = time.monotonic()
        for _ in islice(loader.drawn(draws()), NUM_SPANS * ROWS):
            time.sleep(per_sample_s)
        took_s = time.monotonic() - started_s
    one_after_another_s = NUM_SPANS * READ_S + NUM_SPANS * ROWS * per_sample_s
    assert took_s < 0.75 * one_after_another_s
    assert slow.most_at_once > 1


def test_no_more_is_read_ahead_than_the_next_window(slow: SlowReads) -> None:
    with Loader(places=places, read_rows=slow.rows, load=loaded) as loader:
        for number, _ in enumerate(islice(loader.drawn(draws()), 5 * WINDOW * ROWS)):
            assert len(slow.read) <= (number // (WINDOW * ROWS) + OPEN_WINDOWS) * WINDOW
            assert slow.most_at_once <= LOADS_AT_ONCE + 1


def test_what_was_read_is_forgotten_with_its_window() -> None:
    held: set[int] = set()
    lock, most = threading.Lock(), 0

    class Held(Rows):
        def __del__(self) -> None:
            with lock:
                held.discard(id(self))

    def read(place: Place) -> Rows:
        nonlocal most
        none = np.empty(0, np.int32)
        rows = Held(sample_ids=none, labels=none, sizes_px=none, images=[], rows_per_group=(ROWS,))
        with lock:
            held.add(id(rows))
            most = max(most, len(held))
        return rows

    with Loader(places=places, read_rows=read, load=loaded) as loader:
        for _ in islice(loader.drawn(draws()), 3 * NUM_SPANS * ROWS):
            pass
    assert WINDOW < most <= OPEN_WINDOWS * WINDOW + 1  # and that of the last sample


def test_an_error_is_raised_where_its_sample_is_due(slow: SlowReads) -> None:
    lost = int(next(islice(draws(), WINDOW * ROWS, None))[0].span_indices[0])  # of the second window

    def load(place: Place, rows: Rows) -> LoadedSpan:
        if place.span_index == lost:
            raise CacheCorrupt("lost")
        return loaded(place, rows)

    came: list[int] = []
    with Loader(places=places, read_rows=slow.rows, load=load) as loader, pytest.raises(CacheCorrupt, match="lost"):
        came.extend(int(window.span_indices[place]) for window, place, _ in loader.drawn(draws()))
    due = [int(window.span_indices[place]) for window, place in islice(draws(), len(came) + 1)]
    assert (came, due[-1]) == (due[:-1], lost)
    assert len(came) >= WINDOW * ROWS


def test_loads_that_wait_do_not_hold_up_what_is_there(slow: SlowReads) -> None:
    going = threading.Event()
    window, _ = next(draws())
    there = set(window.span_indices.tolist())

    def load(place: Place, rows: Rows) -> LoadedSpan:
        if place.span_index not in there:
            going.wait(30)
            raise CacheIncomplete("not committed before the run ended")
        return loaded(place, rows)

    with Loader(places=places, read_rows=slow.rows, load=load) as loader:
        first = loader.drawn(draws())
        came = list(islice(first, WINDOW * ROWS))  # by now every thread waits for the second window
        again = list(islice(loader.drawn(draws()), WINDOW * ROWS))  # another lane, of what is there
        assert [(w.span_indices[p], w.rows[p]) for w, p, _ in again] == [
            (w.span_indices[p], w.rows[p]) for w, p, _ in came
        ]
        going.set()


def test_what_was_not_there_when_read_ahead_may_be_there_when_due(slow: SlowReads) -> None:
    tried: list[int] = []

    def load(place: Place, rows: Rows) -> LoadedSpan:
        tried.append(place.span_index)
        if tried.count(place.span_index) == 1:
            raise CacheIncomplete("not yet")
        return loaded(place, rows)

    with Loader(places=places, read_rows=slow.rows, load=load) as loader:
        assert len(ids_of(loader, draws(), WINDOW * ROWS)) == WINDOW * ROWS


def test_an_error_is_told_before_loads_that_wait_have_ended(slow: SlowReads) -> None:
    going = threading.Event()
    window, place = next(draws())
    lost = int(window.span_indices[place])

    def load(place: Place, rows: Rows) -> LoadedSpan:
        if place.span_index == lost:
            raise CacheCorrupt("lost")
        going.wait(30)
        return loaded(place, rows)

    started_s = time.monotonic()
    with pytest.raises(CacheCorrupt), Loader(places=places, read_rows=slow.rows, load=load) as loader:
        next(loader.drawn(draws()))
    going.set()
    assert time.monotonic() - started_s < 10
