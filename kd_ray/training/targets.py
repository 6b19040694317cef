"""Targets from the cache, or from the teacher itself in the loop: the same views, the same code path."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.cache.commits import PinnedUnits
from kd_ray.cache.seen_views import SeenViews
from kd_ray.cache.target_set import Output
from kd_ray.cache.units import Span
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import Rows
from kd_ray.storage import buffers
from kd_ray.storage.base import Bytes
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.training.batches import Drawn
from kd_ray.training.encoded import EncodedTargets
from kd_ray.training.loading import TargetKey
from kd_ray.training.views import StoredViews

LARGE_ROW_BYTES = 1 << 13  # below, what Python takes for a row is more than the copy
ALIGNMENT = 64  # of the processor's loads and stores


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """The committed units that a run reads: one output's by (span, view), and the views' own."""

    outputs: Mapping[TargetKey, tuple[Output, PinnedUnits]]
    views: PinnedUnits


class CachedTargets:
    """Targets read from committed units, bound to the corpus by the sample ids, one view of a span at a time."""

    def __init__(self, pinned: Pinned, *, view_store: ViewStore, policy: Policy, verify_one_in: int) -> None:
        self._pinned = pinned
        self._view_store = view_store
        self._policy = policy
        self._seen = SeenViews(view_store, pinned.views, policy=policy, verify_one_in=verify_one_in)
        self._calibrations = {key: output.fixed_calibration() for key, (output, _) in pinned.outputs.items()}

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, Mapping[str, NDArray[Any]]]:
        """The view's stored arrays [N, …] for every pinned output, checked."""
        return {
            key: output.read_encoded(units[span, view_index], view_index=view_index, sample_ids=rows.sample_ids)
            for key, (output, units) in self._pinned.outputs.items()
        }

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, EncodedTargets]:
        """Rows gathered from the loaded spans, as they are stored."""
        return {
            key: EncodedTargets(
                coding=output.coding,
                calibration=self._calibrations[key],
                arrays={
                    name: gathered([(each.loaded.targets[key][name], each.row) for each in drawn])
                    for name in drawn[0].loaded.targets[key]
                },
            )
            for key, (output, _) in self._pinned.outputs.items()
        }

    def check(self, span: Span, drawn: Drawn) -> None:
        """Compare one view in `verify_one_in` with the one that the teacher saw."""
        view_index = drawn.loaded.view_index
        self._seen.check(drawn.view, span, row=drawn.row, sample_id=drawn.sample_id, view_index=view_index)

    def stored_views(self, kept: KeptFormat) -> StoredViews:
        """The views beside these targets, where their pixels are kept."""
        return StoredViews(store=self._view_store, units=self._pinned.views, policy=self._policy, kept=kept)

    @property
    def num_rounded(self) -> int:
        """Counted once a view, whatever the number of epochs."""
        return self._seen.num_rounded


class LiveTargets:
    """Targets computed by the frozen teachers on the very views that the student sees."""

    num_rounded = 0

    def __init__(self, teachers: Mapping[str, tuple[FrozenTeacher, Input]], *, needed: set[TargetKey]) -> None:
        self._teachers = teachers
        self._needed = needed

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, Mapping[str, NDArray[Any]]]:
        """Nothing is stored."""
        return {}

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, Tensor]:
        """One forward pass of each teacher over these views at its size for them."""
        targets: dict[TargetKey, Tensor] = {}
        for name in self._teachers:
            outputs = self.compute(name, drawn)
            targets |= {(name, key): torch.from_numpy(value) for key, value in outputs.items()}
        return {key: value for key, value in targets.items() if key in self._needed}

    @property
    def teachers(self) -> Collection[str]:
        """Their names."""
        return self._teachers.keys()

    def compute(self, name: str, drawn: Sequence[Drawn]) -> Mapping[str, NDArray[np.float32]]:
        """All outputs [B, …] of one teacher for these views at its size for them."""
        teacher, size = self._teachers[name]
        return teacher(np.stack([each.view.render(size.size_px, size.interpolation) for each in drawn]))

    def check(self, span: Span, drawn: Drawn) -> None:
        """The teacher sees this very view."""


def gathered(rows: Sequence[tuple[NDArray[Any], int]]) -> Tensor:
    """Rows of arrays of one shape and type, as (array, row), in memory that earlier batches have left."""
    first = rows[0][0]
    shape = (len(rows), *first.shape[1:])
    num_bytes = first.dtype.itemsize * math.prod(shape)
    if num_bytes >= len(rows) * LARGE_ROW_BYTES:
        memory = _placed_as(first, buffers.shared.take(num_bytes + ALIGNMENT), num_bytes)
        gathered = memory.view(first.dtype).reshape(shape)
        for place, (array, row) in enumerate(rows):
            gathered[place] = array[row]
        return torch.from_numpy(gathered)
    gathered = buffers.shared.take(num_bytes).view(first.dtype).reshape(shape)
    places: dict[int, tuple[NDArray[Any], list[int], list[int]]] = {}
    for place, (array, row) in enumerate(rows):
        _, to, of = places.setdefault(id(array), (array, [], []))
        to.append(place)
        of.append(row)
    for array, to, of in places.values():
        gathered[to] = array[of]
    return torch.from_numpy(gathered)


def _placed_as(source: NDArray[Any], memory: Bytes, num_bytes: int) -> Bytes:
    """So many bytes of `memory` that begin where `source` does between two multiples of ALIGNMENT.

    A view's bytes follow the checksum of the one before it; copied to another offset they take 1.5 times as long.
    """
    start = (source.ctypes.data - memory.ctypes.data) % ALIGNMENT
    return memory[start : start + num_bytes]
