"""Where the next iteration over a dataset starts, known to the worker processes that a loader has started before."""

from dataclasses import astuple, dataclass, replace

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A point of a run: batches `consumed` in `epoch` by all ranks, of the first `num_spans` spans and `num_views`."""

    epoch: int
    consumed: int
    rank: int
    num_ranks: int
    num_spans: int
    num_views: int

    def at(self, epoch: int, consumed: int, *, rank: int, num_ranks: int) -> "Place":
        """The same samples elsewhere in the run."""
        return replace(self, epoch=epoch, consumed=consumed, rank=rank, num_ranks=num_ranks)

    def of(self, *, num_spans: int, num_views: int) -> "Place":
        """The same point with other samples."""
        return replace(self, num_spans=num_spans, num_views=num_views)


class SharedPlace:
    """A place in memory that forked and spawned workers share with the process that made it."""

    def __init__(self, place: Place) -> None:
        self._numbers = torch.tensor(astuple(place), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def read(self) -> Place:
        """As it was written last."""
        epoch, consumed, rank, num_ranks, num_spans, num_views = self._numbers.tolist()
        return Place(
            epoch=epoch, consumed=consumed, rank=rank, num_ranks=num_ranks, num_spans=num_spans, num_views=num_views
        )

    def write(self, place: Place) -> None:
        """Only between two iterations: a worker reads it when one starts."""
        self._numbers.copy_(torch.tensor(astuple(place), dtype=torch.int64))
