"""Where the views of a span come from: replayed from the corpus's images, or read where their pixels are kept."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from kd_ray.cache.commits import PinnedUnits
from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.units import Span
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.packed import Column, Rows
from kd_ray.views import AnyView, KeptView, ViewRow, decode_pixels, keep_view
from kd_ray.views.color import Pixels


class RowImage:
    """The image of one row, decoded when a view first asks for it, and once for all views of a turn."""

    def __init__(self, rows: Rows, row: int) -> None:
        self._rows, self._row = rows, row

    @cached_property
    def pixels(self) -> Pixels:
        """Upright, [H, W, 3]; raises BadImage where a packed image does not decode."""
        return decode(self._rows.images[self._row])


class SpanViews(Protocol):
    """Views of the rows of one span; threads may ask at the same time, in any order."""

    def view(self, row: int, view_index: int, *, image: RowImage) -> AnyView:
        """One view of one row, whose `image` it is."""


class ViewSource(Protocol):
    """What gives the views of any span."""

    @property
    def columns(self) -> Collection[Column]:
        """What must be read of the corpus."""

    def load(self, span: Span, view_index: int, rows: Rows) -> SpanViews:
        """What is held in memory for one view of a span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedViews:
    """Views rendered from the images; encoded and decoded where `kept` says how they would be stored."""

    policy: Policy
    seed: int
    kept: KeptFormat | None

    @property
    def columns(self) -> Collection[Column]:
        return columns_for(self.policy)

    def load(self, span: Span, view_index: int, rows: Rows) -> SpanViews:
        """Nothing is read: the rows hold the images."""
        replay = Replay(rows, policy=self.policy, seed=self.seed, max_kept_bytes=0)
        return _RenderedViews(replay, self.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredViews:
    """Views read from the committed units of a view set that keeps pixels; no image of the corpus is read."""

    store: ViewStore
    units: PinnedUnits
    policy: Policy
    kept: KeptFormat

    @property
    def columns(self) -> Collection[Column]:
        labels: tuple[Column, ...] = ("label",)
        return labels

    def load(self, span: Span, view_index: int, rows: Rows) -> SpanViews:
        """Params and encoded pixels of one view of the span, checked.

        Raises:
            CacheCorrupt: they are missing, fail a checksum, or are of other samples.
        """
        commit = self.units[span, view_index]
        pixels = self.store.pixels(commit, view_index, sample_ids=rows.sample_ids)
        return _OneStoredView(self.store.rows(commit, view_index), pixels, policy=self.policy, kept=self.kept)


class _RenderedViews:
    def __init__(self, replay: Replay, kept: KeptFormat | None) -> None:
        self._replay, self._kept = replay, kept

    def view(self, row: int, view_index: int, *, image: RowImage) -> AnyView:
        (view,) = self._replay.views(row, (view_index,), image_HW3=image.pixels)
        return view if self._kept is None else keep_view(view, self._kept)[1]


class _OneStoredView:
    def __init__(self, rows: Sequence[ViewRow], pixels: Sequence[bytes], *, policy: Policy, kept: KeptFormat) -> None:
        self._rows, self._pixels, self._policy, self._kept = rows, pixels, policy, kept

    def view(self, row: int, view_index: int, *, image: RowImage) -> KeptView:
        stored = self._rows[row]
        assert stored.view_index == view_index, (stored.view_index, view_index)
        what = f"sample {stored.sample_id:016x}, view {view_index}"
        return KeptView(
            params=stored.params,
            pixels_HW3=decode_pixels(self._pixels[row], self._kept, what=what),
            renderer_version=self._policy.renderer_version,
        )
