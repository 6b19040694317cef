"""Targets and views of a cache that is not complete: what is stored is read, the rest is computed by the teachers.

What a teacher computes here is encoded as it would be stored, so that a loss sees the same kind of target either way.

Shape letters: B batch.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.commits import PinnedUnits
from kd_ray.cache.seen_views import SeenViews
from kd_ray.cache.target_set import Output
from kd_ray.cache.units import Span
from kd_ray.corpus.packed import Column, Rows
from kd_ray.training.batches import Drawn
from kd_ray.training.encoded import EncodedTargets
from kd_ray.training.loading import TargetKey
from kd_ray.training.targets import LiveTargets, Pinned, gathered
from kd_ray.training.views import ReplayedViews, SpanViews, StoredViews

Stored = Mapping[str, NDArray[Any]]
Row = Mapping[str, tuple[NDArray[Any], int]]


class PartialTargets:
    """Targets of the units that are pinned, and those of all others by `live`, as they would be stored.

    A view is checked where its proof is pinned.
    """

    def __init__(self, pinned: Pinned, *, seen: SeenViews | None, live: LiveTargets) -> None:
        """`seen` is None where no view is pinned."""
        self._pinned = pinned
        self._seen = seen
        self._live = live
        self._calibrations = {key: output.fixed_calibration() for key, (output, _) in pinned.outputs.items()}

    @property
    def num_rounded(self) -> int:
        """Of the views that are pinned."""
        return 0 if self._seen is None else self._seen.num_rounded

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, Stored]:
        """The view's stored arrays [N, …] for every output that is pinned there, checked."""
        return {
            key: output.read_encoded(units[span, view_index], view_index=view_index, sample_ids=rows.sample_ids)
            for key, (output, units) in self._pinned.outputs.items()
            if (span, view_index) in units
        }

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, EncodedTargets]:
        """Rows gathered from the loaded spans, and those of the teachers at their places among them."""
        computed = self._compute(drawn)
        targets = {}
        for key, (output, _) in self._pinned.outputs.items():
            rows = [
                {name: (array, each.row) for name, array in each.loaded.targets[key].items()}
                if key in each.loaded.targets
                else computed[key, place]
                for place, each in enumerate(drawn)
            ]
            targets[key] = EncodedTargets(
                coding=output.coding,
                calibration=self._calibrations[key],
                arrays={name: gathered([row[name] for row in rows]) for name in rows[0]},
            )
        return targets

    def check(self, span: Span, drawn: Drawn) -> None:
        """As `CachedTargets.check`; a view that nobody has stored is the one that the teacher sees here."""
        view_index = drawn.loaded.view_index
        if self._seen is not None and (span, view_index) in self._pinned.views:
            self._seen.check(drawn.view, span, row=drawn.row, sample_id=drawn.sample_id, view_index=view_index)

    def _compute(self, drawn: Sequence[Drawn]) -> dict[tuple[TargetKey, int], Row]:
        """By output and place in the batch, each teacher running over the views that lack one of its outputs."""
        rows: dict[tuple[TargetKey, int], Row] = {}
        for teacher in self._live.teachers:
            keys = [key for key in self._pinned.outputs if key[0] == teacher]
            places = [place for place, each in enumerate(drawn) if any(key not in each.loaded.targets for key in keys)]
            if not places:
                continue
            values = self._live.compute(teacher, [drawn[place] for place in places])
            for key in keys:
                encoded = _encoded(self._pinned.outputs[key][0], values[key[1]], self._calibrations[key])
                rows |= {
                    (key, place): {name: (array, row) for name, array in encoded.items()}
                    for row, place in enumerate(places)
                }
        return rows


def _encoded(output: Output, values_BD: NDArray[np.float32], calibration: Calibration | None) -> Stored:
    what = f"{output.target_set.name} {output.spec.name} in the training loop"
    arrays = output.coding.encode(values_BD[None], calibration=calibration, what=what)
    return {name: array[0] for name, array in arrays.items()}


class PartialViews:
    """Views read where their pixels are kept, rendered and encoded where they are not yet."""

    def __init__(self, pinned: PinnedUnits, *, stored: StoredViews | None, replayed: ReplayedViews) -> None:
        """`stored` is None where no view is pinned."""
        self._pinned, self._stored, self._replayed = pinned, stored, replayed

    @property
    def columns(self) -> Collection[Column]:
        return {*(self._stored.columns if self._stored is not None else ()), *self._replayed.columns}

    def load(self, span: Span, view_index: int, rows: Rows) -> SpanViews:
        """Raises what reading kept pixels does."""
        if self._stored is not None and (span, view_index) in self._pinned:
            return self._stored.load(span, view_index, rows)
        return self._replayed.load(span, view_index, rows)
