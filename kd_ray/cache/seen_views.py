"""The views that teachers have seen: a share of those that a student is shown is compared with them."""

from collections.abc import Mapping
from functools import lru_cache

from kd_ray.cache.commits import PinnedUnits
from kd_ray.cache.units import Span
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.views import Policy
from kd_ray.views import AnyView, ViewRow, check_view

STORED_VIEWS_KEPT = 512  # views of spans; what the lanes of one worker have open at a time, with crops and repeats


class SeenViews:
    """What is stored of one view set; `check` may be called by several threads at once."""

    def __init__(self, store: ViewStore, units: PinnedUnits, *, policy: Policy, verify_one_in: int) -> None:
        self._store = store
        self._units = units
        self._policy = policy
        self._verify_one_in = verify_one_in
        self._rounded: set[tuple[int, int]] = set()  # adding to it needs no lock
        self._stored_rows = lru_cache(maxsize=STORED_VIEWS_KEPT)(self._read_rows)

    @property
    def num_rounded(self) -> int:
        """How many differ by the rounding of another decoder; counted once a view, whatever the number of epochs."""
        return len(self._rounded)

    def check(self, view: AnyView, span: Span, *, row: int, sample_id: int, view_index: int) -> None:
        """Compare one view in `verify_one_in`, chosen by sample and view alone: every run checks the same ones.

        `row` is the sample's place in the span.

        Raises:
            ViewMismatch: the view is not the one that the teacher saw.
            CacheCorrupt: what is stored of the views cannot be read.
        """
        if not self._is_checked(sample_id, view_index):
            return
        stored = self._stored_rows(span, view_index)[row]
        where = {"sample_id": sample_id, "view_index": view_index}
        if check_view(view, stored.proof, stored.params, policy=self._policy, **where) == "rounding":
            self._rounded.add((sample_id, view_index))

    def _is_checked(self, sample_id: int, view_index: int) -> bool:
        return (sample_id + view_index) % self._verify_one_in == 0

    def _read_rows(self, span: Span, view_index: int) -> Mapping[int, ViewRow]:
        """By row, of those that are checked: a span may be a whole shard."""
        rows = self._store.rows(self._units[span, view_index], view_index)
        return {place: row for place, row in enumerate(rows) if self._is_checked(row.sample_id, view_index)}
