"""The views of one unit: new ones, rendered and described; or committed ones, which an added teacher must see again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kd_ray.cache.commits import Commit
from kd_ray.cache.replay import Replay
from kd_ray.cache.target_set import SampleIds, refuse_other_members
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.views import (
    AnyView,
    KeptView,
    View,
    ViewRow,
    check_view,
    compare,
    decode_pixels,
    keep_view,
    prove,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What is to be stored of one view: its row, and its pixels where they are kept."""

    row: ViewRow
    pixels: bytes | None


class UnitViews(Protocol):
    """Where the views of a unit come from; threads ask for its rows in any order."""

    def of(self, row: int) -> tuple[list[AnyView], list[Described]]:
        """All views of one row in their order, and what is to be stored of each; nothing where they are committed."""

    @property
    def num_rounded(self) -> int:
        """How many of the views that were compared with what is stored differ by the rounding of another decoder."""


class NewViews:
    """Views that are not stored yet."""

    num_rounded = 0

    def __init__(
        self, replay: Replay, unit: Unit, sample_ids: SampleIds, *, policy: Policy, kept: KeptFormat | None
    ) -> None:
        self._replay = replay
        self._indices = range(unit.view_start, unit.view_stop)
        self._sample_ids = sample_ids
        self._policy = policy
        self._kept = kept

    def of(self, row: int) -> tuple[list[AnyView], list[Described]]:
        """Rendered, or rendered, encoded and decoded where pixels are kept; raises what `Replay.views` does."""
        views, described = list[AnyView](), list[Described]()
        for index, rendered in zip(self._indices, self._replay.views(row, self._indices), strict=True):
            data, view = self._as_seen(rendered)
            proof = prove(view, policy=self._policy)
            stored = ViewRow(sample_id=int(self._sample_ids[row]), view_index=index, params=view.params, proof=proof)
            views.append(view)
            described.append(Described(row=stored, pixels=data))
        return views, described

    def _as_seen(self, rendered: View) -> tuple[bytes | None, AnyView]:
        return (None, rendered) if self._kept is None else keep_view(rendered, self._kept)


class CommittedViews:
    """Views that another teacher, or another output, has seen: read where pixels are kept, else rendered again.

    One view in `verify_one_in`, and at least one of the unit, is compared with the stored proof. `replay` is for views
    whose pixels are not kept; its rows are those of the unit from `first_row` on. Making it raises CacheCorrupt where
    what is stored cannot be read or is of other samples.
    """

    def __init__(
        self,
        store: ViewStore,
        commit: Commit,
        sample_ids: SampleIds,
        *,
        policy: Policy,
        replay: Replay | None,
        kept: KeptFormat | None,
        verify_one_in: int,
        first_row: int = 0,
    ) -> None:
        assert (replay is None) == (kept is not None)
        refuse_other_members(store.collection, commit, sample_ids)
        self._policy, self._replay, self._kept = policy, replay, kept
        self._first_row = first_row
        self._sample_ids = sample_ids
        self._indices = range(commit.unit.view_start, commit.unit.view_stop)
        self._stored = _by_row(store.rows(commit), num_rows=len(sample_ids))
        self._pixels: list[list[bytes]] = []
        if kept is not None:
            self._pixels = [store.pixels(commit, index, sample_ids=sample_ids) for index in self._indices]
        self._checked = _to_check(sample_ids, self._indices, verify_one_in=verify_one_in)
        self._rounded: set[tuple[int, int]] = set()  # adding to it needs no lock

    @property
    def num_rounded(self) -> int:
        return len(self._rounded)

    def of(self, row: int) -> tuple[list[AnyView], list[Described]]:
        """The very views that are stored.

        Raises:
            BadImage: a packed image does not decode.
            ViewMismatch: a view is not the one that is stored.
        """
        views = self._views(row)
        for index, view, stored in zip(self._indices, views, self._stored[row], strict=True):
            if (row, index) in self._checked:
                sample_id = int(self._sample_ids[row])
                where = {"sample_id": sample_id, "view_index": index}
                found = check_view(view, stored.proof, stored.params, policy=self._policy, **where)
                if found == "rounding":
                    self._rounded.add((row, index))
        return views, []

    def _views(self, row: int) -> list[AnyView]:
        if self._replay is not None:
            return list(self._replay.views(row - self._first_row, self._indices))
        pixels = [of_view[row] for of_view in self._pixels]
        return [self._kept_view(data, stored) for data, stored in zip(pixels, self._stored[row], strict=True)]

    def _kept_view(self, data: bytes, stored: ViewRow) -> KeptView:
        assert self._kept is not None
        what = f"sample {stored.sample_id:016x}, view {stored.view_index}"
        return KeptView(
            params=stored.params,
            pixels_HW3=decode_pixels(data, self._kept, what=what),
            renderer_version=self._policy.renderer_version,
        )


def count_rounded(
    found: Sequence[Described], stored: Sequence[ViewRow], *, policy: Policy, views: Callable[[], UnitViews]
) -> int:
    """How many of the views that this attempt saw differ by rounding from those that another committed meanwhile.

    Both are view-major. `views` opens the unit's new views again, for those that proofs alone cannot tell.

    Raises:
        ViewMismatch: one is another view.
    """
    theirs = {(row.sample_id, row.view_index): row for row in stored}
    num_rounded, opened = 0, None
    num_rows = len({each.row.sample_id for each in found})
    for place, row in enumerate(each.row for each in found):
        other = theirs[row.sample_id, row.view_index]
        likeness = compare(row.proof, other.proof)
        if likeness == "different" or row.params != other.params:
            opened = opened or views()
            view = opened.of(place % num_rows)[0][place // num_rows]
            where = {"sample_id": row.sample_id, "view_index": row.view_index}
            likeness = check_view(view, other.proof, other.params, policy=policy, **where)
        num_rounded += likeness == "rounding"
    return num_rounded


def _by_row(rows: Sequence[ViewRow], *, num_rows: int) -> list[list[ViewRow]]:
    """Stored view by view; here sample by sample."""
    return [list(rows[row::num_rows]) for row in range(num_rows)]


def _to_check(sample_ids: SampleIds, indices: range, *, verify_one_in: int) -> frozenset[tuple[int, int]]:
    """(row, view) of those that training checks, too; the first of the unit where there is none."""
    chosen = {
        (row, index)
        for row, sample_id in enumerate(sample_ids.tolist())
        for index in indices
        if (sample_id + index) % verify_one_in == 0
    }
    return frozenset(chosen or {(0, indices.start)})
