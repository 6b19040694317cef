"""A split's views that teachers have seen, found by the row groups in which evaluation goes through it."""

from collections.abc import Iterable

from kd_ray.cache.seen_views import SeenViews
from kd_ray.cache.units import Span
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.corpus.source import SplitName
from kd_ray.errors import CacheCorrupt
from kd_ray.views import AnyView


class SeenSplit:
    """View 0 of every sample of a split, stored in units of `spans`.

    Raises:
        CacheCorrupt: these do not hold the whole split.
    """

    def __init__(self, seen: SeenViews, spans: Iterable[Span], corpus: PackedCorpus, *, split: SplitName) -> None:
        self._seen = seen
        rows_per_group = {shard.name: shard.rows_per_group for shard in corpus.shards(split)}
        self._places = {
            (span.shard, group): (span, sum(rows_per_group[span.shard][span.group_start : group]))
            for span in spans
            for group in range(span.group_start, span.group_stop)
        }
        groups = {(shard, group) for shard, rows in rows_per_group.items() for group in range(len(rows))}
        if groups != self._places.keys():
            raise CacheCorrupt(
                "the cached views are of other samples than the held-out split. Run the extract stage again."
            )

    @property
    def num_rounded(self) -> int:
        """How many of the compared views differ by the rounding of another decoder."""
        return self._seen.num_rounded

    def check(self, view: AnyView, place: tuple[str, int], *, row: int, sample_id: int) -> None:
        """Compare the view of a row of the row group at `place` (shard, number), if it is one of the share.

        Raises:
            ViewMismatch: the view is not the one that the teacher saw.
        """
        span, rows_before = self._places[place]
        self._seen.check(view, span, row=rows_before + row, sample_id=sample_id, view_index=0)
