"""Targets from the cache, or from the teacher itself in the loop: the same views, the same code path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.cache.commits import PinnedUnits
from kd_ray.cache.target_set import Output
from kd_ray.cache.units import Span
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import Rows
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.training.batches import Drawn, TargetKey
from kd_ray.training.encoded import EncodedTargets
from kd_ray.training.views import StoredViews
from kd_ray.views import Proof, check_view

STORED_PROOFS_KEPT = 512  # views of spans; what the lanes of one worker have open at a time, with crops and repeats


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
        self._verify_one_in = verify_one_in
        self._rounded: set[tuple[int, int]] = set()  # adding to it needs no lock
        self._calibrations = {key: output.fixed_calibration() for key, (output, _) in pinned.outputs.items()}
        self._stored_proofs = lru_cache(maxsize=STORED_PROOFS_KEPT)(self._read_proofs)

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
                    name: torch.from_numpy(np.stack([each.loaded.targets[key][name][each.row] for each in drawn]))
                    for name in drawn[0].loaded.targets[key]
                },
            )
            for key, (output, _) in self._pinned.outputs.items()
        }

    def check(self, span: Span, drawn: Drawn) -> None:
        """Check one view in `verify_one_in`, chosen by sample and view alone: every run checks the same ones."""
        view_index = drawn.loaded.view_index
        if not self._is_checked(drawn.sample_id, view_index):
            return
        stored = self._stored_proofs(span, view_index)[drawn.row]
        likeness = check_view(drawn.view, stored, policy=self._policy, sample_id=drawn.sample_id, view_index=view_index)
        if likeness == "rounding":
            self._rounded.add((drawn.sample_id, view_index))

    def _is_checked(self, sample_id: int, view_index: int) -> bool:
        return (sample_id + view_index) % self._verify_one_in == 0

    def _read_proofs(self, span: Span, view_index: int) -> Mapping[int, Proof]:
        """By row, of those that are checked: a proof is 330 bytes, and a span may be a whole shard."""
        rows = self._view_store.rows(self._pinned.views[span, view_index], view_index)
        return {place: row.proof for place, row in enumerate(rows) if self._is_checked(row.sample_id, view_index)}

    def stored_views(self, kept: KeptFormat) -> StoredViews:
        """The views beside these targets, where their pixels are kept."""
        return StoredViews(store=self._view_store, units=self._pinned.views, policy=self._policy, kept=kept)

    @property
    def num_rounded(self) -> int:
        """Counted once a view, whatever the number of epochs."""
        return len(self._rounded)


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
        for name, (teacher, size) in self._teachers.items():
            outputs = teacher(np.stack([each.view.render(size.size_px, size.interpolation) for each in drawn]))
            targets |= {(name, key): torch.from_numpy(value) for key, value in outputs.items()}
        return {key: value for key, value in targets.items() if key in self._needed}

    def check(self, span: Span, drawn: Drawn) -> None:
        """The teacher sees this very view."""
