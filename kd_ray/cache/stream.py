"""The endless stream of one source's samples, as one lane sees it.

Turn e of a source is a permutation of all its spans; the turns follow one another without a gap, and the spans are
dealt to the lanes one after another. Each lane shuffles the samples of `window` consecutive spans of its own together.
All pseudo-random numbers are keyed by the source's name, so that another source changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np

from kd_ray.cache.recurrence import Recurrence
from kd_ray.cache.units import Span
from kd_ray.cache.words import Ints, permutation

TURNS_KEPT = 128  # permutations of spans; the lanes of one worker are in one or two turns of each source at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSpan:
    """A span of a pinned snapshot and the rows of it (positions inside the span) that the run may use."""

    span: Span
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpans:
    """What a run has pinned of one source; "" is the name of a corpus's only source.

    Of every sum(weights) picks of the mixture, `weight` are this source's. `recurrence` is of the samples of `spans` in
    their order; None: each comes once a turn.
    """

    name: str
    weight: int
    spans: Sequence[SnapshotSpan]
    recurrence: Recurrence | None

    @property
    def num_samples(self) -> int:
        """How many samples there are; a turn has as many, or about as many where they have weights."""
        return sum(len(each.rows) for each in self.spans)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """The samples of `window` consecutive spans of one lane and source, in the order in which they are drawn.

    `span_indices`, `rows` and `occurrences` are parallel [N]: which span of the source, which row of it, and how often
    the sample had come before in the whole run (without weights: the turn).
    """

    source: int
    span_indices: Ints
    rows: Ints
    occurrences: Ints

    def __len__(self) -> int:
        return len(self.rows)


class LaneStream:
    """One lane's windows of the source with this number in the run."""

    def __init__(self, source: SourceSpans, number: int, *, lane: int, num_lanes: int, window: int, seed: int) -> None:
        self._source = source
        self._number = number
        self._lane, self._num_lanes = lane, num_lanes
        self._window = window
        self._seed = seed
        self._sizes = np.array([len(each.rows) for each in source.spans], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def draws(self, *, skip: int) -> Iterator[tuple[Window, int]]:
        """Each sample as its window and its place there, endlessly, without the lane's first `skip` samples."""
        first, skip_there = self._locate(skip)
        for number in count(first):
            window = self._shuffled(number)
            for place in range(skip_there, len(window)):
                yield window, place
            skip_there = 0

    def _locate(self, skip: int) -> tuple[int, int]:
        """The window that holds the lane's sample number `skip`, and how many samples come before it there."""
        place = 0
        for turn in count():
            spans = self._turn(turn)[(self._lane - turn * len(self._sizes)) % self._num_lanes :: self._num_lanes]
            ends = np.cumsum(self._sizes_in(turn)[spans])
            if len(ends) and skip < ends[-1]:
                break
            skip -= int(ends[-1]) if len(ends) else 0
            place += len(spans)
        inside = int(np.searchsorted(ends, skip, side="right"))
        number, within = divmod(place + inside, self._window)
        skip -= int(ends[inside - 1]) if inside else 0
        return number, skip + sum(self._size_at(place + inside - 1 - back) for back in range(within))

    def _size_at(self, place: int) -> int:
        index, turn = self._span_at(place)
        return int(self._counts(index, turn).sum())

    def _span_at(self, place: int) -> tuple[int, int]:
        """Which span stands at a place of the lane's own stream of spans, and in which turn."""
        turn, position = divmod(self._lane + place * self._num_lanes, len(self._sizes))
        return int(self._turn(turn)[position]), turn

    def _turn(self, turn: int) -> Ints:
        return _spans_of_turn(self._seed, self._source.name, turn, len(self._sizes))

    def _sizes_in(self, turn: int) -> Ints:
        """How many samples each span has in `turn`."""
        if self._source.recurrence is None:
            return self._sizes
        sizes: Ints = np.add.reduceat(self._source.recurrence.counts(turn), self._starts)
        return sizes

    def _counts(self, index: int, turn: int) -> Ints:
        if self._source.recurrence is None:
            return np.ones(self._sizes[index], np.int64)
        return self._source.recurrence.counts(turn, samples=self._samples(index))

    def _samples(self, index: int) -> slice:
        return slice(self._starts[index], self._starts[index] + self._sizes[index])

    def _shuffled(self, number: int) -> Window:
        located = [self._span_at(number * self._window + i) for i in range(self._window)]
        parts = [self._drawn_from(index, turn) for index, turn in located]
        span_indices = np.repeat([index for index, _ in located], [len(rows) for rows, _ in parts])
        key = _key("window", self._seed, self._lane, number, source=self._source.name)
        order = permutation(key, len(span_indices))
        return Window(
            source=self._number,
            span_indices=span_indices[order].astype(np.int64),
            rows=np.concatenate([rows for rows, _ in parts])[order],
            occurrences=np.concatenate([occurrences for _, occurrences in parts])[order],
        )

    def _drawn_from(self, index: int, turn: int) -> tuple[Ints, Ints]:
        """Rows of one span as often as `turn` has them, and the number of each one's occurrence."""
        rows = np.asarray(self._source.spans[index].rows, dtype=np.int64)
        if self._source.recurrence is None:
            return rows, np.full(len(rows), turn, np.int64)
        counts = self._counts(index, turn)
        before = self._source.recurrence.before(turn, samples=self._samples(index))
        again = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(rows, counts), np.repeat(before, counts) + again


@lru_cache(maxsize=TURNS_KEPT)
def _spans_of_turn(seed: int, source: str, turn: int, num_spans: int) -> Ints:
    order = permutation(_key("epoch", seed, turn, 0, source=source), num_spans)
    order.setflags(write=False)
    return order


def _key(*parts: str | int, source: str) -> list[str | int]:
    """The only source of a corpus has no name, and none in its keys."""
    return [*parts, source] if source else list(parts)
