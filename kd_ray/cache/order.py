"""In which order a run reads its samples: endless streams of the sources, mixed at fixed shares, in a number of lanes.

Row n of a run is the n-th sample of every lane; a global batch is a run of rows, and a worker owns whole lanes, so that
neither the number of workers nor a restart changes which samples a batch holds. A pattern says from which source each
sample of a row comes (`mixture`), and each source has a stream of its own in each lane (`stream`). The state is one
number: samples consumed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kd_ray.cache.mixture import Mixture
from kd_ray.cache.stream import LaneStream, SourceSpans, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The endless stream of one run."""

    sources: Sequence[SourceSpans]
    seed: int
    num_lanes: int
    window: int

    @property
    def num_samples(self) -> int:
        """Samples of all sources."""
        return sum(source.num_samples for source in self.sources)

    @property
    def mixture(self) -> Mixture:
        """From which source each sample comes."""
        weights = tuple(source.weight for source in self.sources)
        return Mixture(weights=weights, seed=self.seed, num_lanes=self.num_lanes)

    def draws(self, lane: int, *, skip: int) -> Iterator[tuple[Window, int]]:
        """The samples of one lane, endlessly, without its first `skip`: each as its window and its place there.

        Windows of one source follow one another; those of several sources interleave.
        """
        skipped = self.mixture.counts(lane, num_rows=skip)
        streams = [
            LaneStream(source, number, lane=lane, num_lanes=self.num_lanes, window=self.window, seed=self.seed).draws(
                skip=skipped[number]
            )
            for number, source in enumerate(self.sources)
        ]
        for number in self.mixture.picks(lane, skip=skip):
            yield next(streams[number])


def lanes_of(worker: int, *, num_workers: int, num_lanes: int) -> range:
    """The lanes of one worker; `num_workers` divides `num_lanes`."""
    return range(worker, num_lanes, num_workers)
