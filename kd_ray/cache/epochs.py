"""In which order a training loop of one's own reads its samples: whole epochs, cut into batches that any number of
workers shares.

Epoch e is a permutation of all spans; the samples of `window` consecutive spans are shuffled together. Of the sequence
of samples that this gives, every `batch_size` are a batch. Lane n reads a run of consecutive batches of it, so that a
window is read by one lane, or by two where it ends. The epoch's batch number b is the next one of lane b mod
`num_lanes`: it is the same whoever asks, and a worker that takes every k-th batch, for a k that divides `num_lanes`,
owns whole lanes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kd_ray.cache.stream import SnapshotSpan, SourceSpans, Window
from kd_ray.cache.words import Ints, permutation
from kd_ray.corpus.source import ALONE


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochOrder:
    """The batches of every epoch over `spans`; without `shuffle` in the order of the corpus, epoch after epoch.

    An epoch leaves out the last samples of its permutation, fewer than `batch_size`, unless `keep_last`: then they are
    a smaller batch at its end.
    """

    spans: Sequence[SnapshotSpan]
    seed: int
    batch_size: int
    num_lanes: int
    window: int
    shuffle: bool
    keep_last: bool

    @property
    def sources(self) -> tuple[SourceSpans]:
        """The spans as the only source of a run."""
        return (SourceSpans(name=ALONE, weight=1, spans=self.spans, recurrence=None),)

    @property
    def num_samples(self) -> int:
        """Samples of all spans."""
        return sum(len(each.rows) for each in self.spans)

    @property
    def num_batches(self) -> int:
        """Batches of one epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (1 if rest and self.keep_last else 0)

    def size_of(self, batch: int) -> int:
        """How many samples the epoch's batch of that number has."""
        is_last = batch == self.num_samples // self.batch_size
        return self.num_samples % self.batch_size if is_last else self.batch_size

    def draws(self, epoch: int, batch: int) -> Iterator[tuple[Window, int]]:
        """The samples of one epoch from the batch of that number on, as its lane sees them: each as its window and its
        place there.

        The next batch of the same lane is `num_lanes` batches later.
        """
        lane, place = batch % self.num_lanes, batch // self.num_lanes
        num_whole = self.num_samples // self.batch_size
        per_lane, longer = divmod(num_whole, self.num_lanes)
        start = lane * per_lane + min(lane, longer)
        stop = start + per_lane + (lane < longer)
        yield from self._sequence(epoch, (start + place) * self.batch_size, stop * self.batch_size)
        if self.keep_last and lane == longer:
            yield from self._sequence(epoch, num_whole * self.batch_size, self.num_samples)

    def _sequence(self, epoch: int, start: int, stop: int) -> Iterator[tuple[Window, int]]:
        """The samples [start, stop) of an epoch's sequence."""
        if start >= stop:
            return
        spans = self._spans_of(epoch)
        ends = np.cumsum([len(self.spans[index].rows) for index in spans])[self.window - 1 :: self.window]
        for number in range(int(np.searchsorted(ends, start, side="right")), -(-len(spans) // self.window)):
            first = int(ends[number - 1]) if number else 0
            if first >= stop:
                return
            window = self._window(epoch, number, spans)
            for place in range(max(start - first, 0), min(stop - first, len(window))):
                yield window, place

    def _spans_of(self, epoch: int) -> Ints:
        if not self.shuffle:
            return np.arange(len(self.spans))
        return permutation(["spans of epoch", self.seed, epoch], len(self.spans))

    def _window(self, epoch: int, number: int, spans: Ints) -> Window:
        chosen = spans[number * self.window : (number + 1) * self.window]
        rows = [np.asarray(self.spans[index].rows, dtype=np.int64) for index in chosen]
        num_rows = sum(map(len, rows))
        order = permutation(["window of epoch", self.seed, epoch, number], num_rows) if self.shuffle else slice(None)
        return Window(
            source=0,
            span_indices=np.repeat(chosen, [len(each) for each in rows])[order],
            rows=np.concatenate(rows)[order],
            occurrences=np.full(num_rows, epoch, np.int64),
        )
