"""Rows of units rendered: in threads of the worker that runs the teacher (placement: fused), or elsewhere (split).

Shape letters: V views, H W pixels, 3: red, green, blue.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.commits import Commit
from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.target_set import SampleIds
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.unit_views import CommittedViews, Described, NewViews, UnitViews

MAX_PART_BYTES = 32 << 20  # of rendered pixels that travel at once

Pixels = NDArray[np.uint8]
Rendered = tuple[list[Described], tuple[Pixels, ...]]
"""All views of one row: what is to be stored of each (nothing where they are committed), and [V, H, W, 3] of each size.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows [`start`, `stop`) of one row group of a shard, counted in it; its first is row `group_row` of the unit."""

    group: int
    start: int
    stop: int
    group_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRows:
    """Rows of a unit that can be rendered, by threads in any order."""

    sample_ids: SampleIds
    views: UnitViews
    sizes: tuple[Input, ...]

    def render(self, row: int) -> Rendered:
        """All views of one row, whose image is decoded once, and rendered once for each size.

        Raises:
            BadImage: a packed image does not decode.
            ViewMismatch: a view is not the one that is stored.
        """
        seen, described = self.views.of(row)
        return described, tuple(
            np.stack([view.render(size.size_px, size.interpolation) for view in seen]) for size in self.sizes
        )


class FarRendering(Protocol):
    """Renders parts of units on other workers."""

    def submit(self, unit: Unit, committed: Commit | None, part: Part) -> "Future[tuple[list[Rendered], int]]":
        """The rows of a part, and how many of their views differ from the stored ones by rounding."""

    @property
    def max_tasks(self) -> int:
        """How many parts may be in work at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRenderer:
    """Opens units of one view set for teachers with inputs of these `sizes`; one for each process."""

    corpus: PackedCorpus
    view_store: ViewStore
    policy: Policy
    view_seed: int
    kept: KeptFormat | None
    verify_one_in: int
    sizes: tuple[Input, ...]

    def open(self, unit: Unit, committed: Commit | None, *, with_images: bool) -> OpenRows:
        """All rows of a unit; without images where its views are read, or nothing is to be seen."""
        span = unit.span
        columns = columns_for(self.policy) if with_images else ()
        rows = self.corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=columns)
        replay = Replay(rows, policy=self.policy, seed=self.view_seed) if with_images else None
        views = self._views(unit, committed, replay, rows.sample_ids, first_row=0, unit_ids=rows.sample_ids)
        return OpenRows(sample_ids=rows.sample_ids, views=views, sizes=self.sizes)

    def render_part(self, unit: Unit, committed: Commit | None, part: Part) -> tuple[list[Rendered], int]:
        """What `FarRendering.submit` promises, here; only the row group of the part is read."""
        rows = self.corpus.read_rows(unit.span.shard, part.group, part.group + 1, columns=columns_for(self.policy))
        replay = Replay(rows, policy=self.policy, seed=self.view_seed)
        unit_ids = rows.sample_ids if committed is None else self.sample_ids(unit.span)
        views = self._views(unit, committed, replay, rows.sample_ids, first_row=part.group_row, unit_ids=unit_ids)
        opened = OpenRows(sample_ids=rows.sample_ids, views=views, sizes=self.sizes)
        first = 0 if committed is None else part.group_row
        return [opened.render(first + row) for row in range(part.start, part.stop)], views.num_rounded

    def sample_ids(self, span: Span) -> SampleIds:
        """Of all rows of a span."""
        return self.corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=()).sample_ids

    def parts(self, unit: Unit) -> Iterator[Part]:
        """A unit cut so that the pixels of a part stay below `MAX_PART_BYTES`, in the order of its rows."""
        num_pixels = sum(height * width for height, width in (each.size_px for each in self.sizes))
        num_rows = max(MAX_PART_BYTES // (unit.num_views * num_pixels * 3), 1)
        span = unit.span
        rows_per_group = self.corpus.rows_per_group(span.shard)[span.group_start : span.group_stop]
        group_row = 0
        for group, count in enumerate(rows_per_group, start=span.group_start):
            for start in range(0, count, num_rows):
                yield Part(group=group, start=start, stop=min(start + num_rows, count), group_row=group_row)
            group_row += count

    def _views(
        self,
        unit: Unit,
        committed: Commit | None,
        replay: Replay | None,
        sample_ids: SampleIds,
        *,
        first_row: int,
        unit_ids: SampleIds,
    ) -> UnitViews:
        if committed is None:
            assert replay is not None
            return NewViews(replay, unit, sample_ids, policy=self.policy, kept=self.kept)
        return CommittedViews(
            self.view_store,
            committed,
            unit_ids,
            policy=self.policy,
            replay=replay,
            first_row=first_row,
            kept=self.kept,
            verify_one_in=self.verify_one_in,
        )
