"""In which order a run reads its samples: an endless stream over permuted spans, dealt to a fixed number of lanes.

Epoch e is a permutation of all spans; the permutations follow one another without a gap, and the spans are dealt to the
lanes in turn. Each lane shuffles the rows of `window` consecutive spans of its own together. A global batch takes the
same number of samples from every lane, and a worker owns whole lanes, so that neither the number of workers nor a
restart changes which samples a batch holds. The state is one number: samples consumed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.units import Span
from kd_ray.storage.base import canonical_json

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSpan:
    """A span of a pinned snapshot and the rows of it (positions inside the span) that the run may use."""

    span: Span
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The samples of `window` consecutive spans of one lane, in the order in which they are drawn.

    `span_indices`, `rows` and `epochs` are parallel [N]: which span of the snapshot, which row of it, in which epoch.
    """

    span_indices: Ints
    rows: Ints
    epochs: Ints

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The endless stream of one run."""

    spans: Sequence[SnapshotSpan]
    seed: int
    num_lanes: int
    window: int

    @property
    def num_samples(self) -> int:
        """Samples in one epoch."""
        return sum(len(each.rows) for each in self.spans)

    def windows(self, lane: int, *, skip: int) -> Iterator[tuple[Window, int]]:
        """The windows of one lane, endlessly, without its first `skip` samples.

        Yields each window with the number of its samples that are skipped (0 for all but the first).
        """
        number = 0
        while True:
            places = [lane + (number * self.window + i) * self.num_lanes for i in range(self.window)]
            located = [self._span_at(place) for place in places]
            size = sum(len(self.spans[index].rows) for index, _ in located)
            if skip < size:
                yield self._shuffled(located, lane=lane, number=number), skip
                skip = 0
            else:
                skip -= size
            number += 1

    def _span_at(self, place: int) -> tuple[int, int]:
        """Which span stands at a place of the endless stream of spans, and in which epoch."""
        epoch, position = divmod(place, len(self.spans))
        return int(_permutation(self.seed, "epoch", epoch, 0, len(self.spans))[position]), epoch

    def _shuffled(self, located: Sequence[tuple[int, int]], *, lane: int, number: int) -> Window:
        rows = [np.asarray(self.spans[index].rows, dtype=np.int64) for index, _ in located]
        sizes = [len(each) for each in rows]
        span_indices = np.repeat([index for index, _ in located], sizes)
        epochs = np.repeat([epoch for _, epoch in located], sizes)
        order = _permutation(self.seed, "window", lane, number, sum(sizes))
        return Window(
            span_indices=span_indices[order].astype(np.int64),
            rows=np.concatenate(rows)[order],
            epochs=epochs[order].astype(np.int64),
        )


@lru_cache(maxsize=64)
def _permutation(seed: int, domain: str, first: int, second: int, length: int) -> Ints:
    """A permutation of `length` from raw Philox bits, the same on every machine and NumPy version."""
    key = hashlib.blake2b(canonical_json([domain, seed, first, second]), digest_size=16).digest()
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(length)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def lanes_of(worker: int, *, num_workers: int, num_lanes: int) -> range:
    """The lanes of one worker; `num_workers` divides `num_lanes`."""
    return range(worker, num_lanes, num_workers)
