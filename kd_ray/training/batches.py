"""From an order of samples to batches: decode, replay the view, gather its targets; ahead of the loop, in threads.

Shape letters: B batch, C channels, H W pixels, N rows of a span.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.cache.order import Order, lanes_of
from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.stream import Window
from kd_ray.cache.units import Span
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.models.pixels import to_input
from kd_ray.training.losses import NO_LABEL, Labels
from kd_ray.training.prefetch import prefetched
from kd_ray.views import View, mix_of

PREFETCHED_BATCHES = 4

TargetKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step consumes: labels are NO_LABEL where none may be used, targets are [B, …] by (teacher, output)."""

    inputs_BCHW: Tensor
    labels: Labels
    targets: Mapping[TargetKey, Tensor]
    sample_ids_B: NDArray[np.uint64]
    view_indices_B: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSpan:
    """The rows of a span in memory, with what the target source keeps of one view of them."""

    rows: Rows
    replay: Replay
    label_of: Mapping[int, int]
    view_index: int
    targets: Mapping[TargetKey, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One sample's turn: its replayed view, that as the student sees it, and where its targets are."""

    loaded: LoadedSpan
    row: int
    view: View
    pixels_HWC: NDArray[np.uint8]

    @property
    def sample_id(self) -> int:
        return int(self.loaded.rows.sample_ids[self.row])


class TargetSource(Protocol):
    """Where targets come from: the cache, a live teacher, or nowhere."""

    @property
    def num_rounded(self) -> int:
        """How many of the checked views differ from the teacher's by the rounding of another decoder."""

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, NDArray[Any]]:
        """What is read for a whole span at once, [N, …] by (teacher, output)."""

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, Tensor]:
        """The targets of one batch, float32 [B, …] by (teacher, output)."""

    def check(self, span: Span, drawn: Drawn) -> None:
        """Compare the replayed view with the stored digest where this view is one of those to be checked.

        Raises:
            ViewMismatch: the view is not the one that the teacher saw.
        """


class NoTargets:
    """Plain supervised training."""

    num_rounded = 0

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, NDArray[Any]]:
        """Nothing to read."""
        return {}

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, Tensor]:
        """No targets."""
        return {}

    def check(self, span: Span, drawn: Drawn) -> None:
        """Nobody else saw this view, so there is nothing to compare it with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What decides the batches of a run. `num_views` None draws a fresh view each time instead of going round."""

    policy: Policy
    view_seed: int
    num_views: int | None
    input: Input
    global_batch_size: int
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenWindow:
    """What is in memory of one window: rows by span, and by span and view what belongs to that view."""

    window: Window
    rows: dict[int, Rows] = field(default_factory=dict)
    loaded: dict[tuple[int, int], LoadedSpan] = field(default_factory=dict)


class BatchStream:
    """The batches of one worker, endlessly, from any point of the run on."""

    def __init__(
        self,
        settings: StreamSettings,
        order: Order,
        *,
        corpus: PackedCorpus,
        usable_labels: frozenset[int],
        targets: TargetSource,
    ) -> None:
        self._settings = settings
        self._order = order
        self._corpus = corpus
        self._usable_labels = usable_labels
        self._targets = targets

    def batches(self, *, worker: int, num_workers: int, consumed: int) -> prefetched[Batch]:
        """Batches of this worker after the first `consumed` samples of the run (over all workers)."""
        return prefetched(self._batches(worker, num_workers, consumed), depth=PREFETCHED_BATCHES)

    def _batches(self, worker: int, num_workers: int, consumed: int) -> Iterator[Batch]:
        per_lane = self._settings.global_batch_size // self._order.num_lanes
        skip = consumed // self._order.num_lanes
        mine = lanes_of(worker, num_workers=num_workers, num_lanes=self._order.num_lanes)
        lanes = [self._turns(lane, skip) for lane in mine]
        with ThreadPoolExecutor(self._settings.num_threads) as pool:
            while True:
                turns = [next(lane) for lane in lanes for _ in range(per_lane)]
                yield self._batch(list(pool.map(self._prepare, turns)))

    def _turns(self, lane: int, skip: int) -> Iterator[tuple[Span, LoadedSpan, int]]:
        opened: dict[int, _OpenWindow] = {}
        for window, place in self._order.draws(lane, skip=skip):
            if window.source not in opened or opened[window.source].window is not window:
                opened[window.source] = _OpenWindow(window=window)
            yield self._turn(opened[window.source], place)

    def _turn(self, opened: _OpenWindow, place: int) -> tuple[Span, LoadedSpan, int]:
        window = opened.window
        index, occurrence = int(window.span_indices[place]), int(window.occurrences[place])
        span = self._order.sources[window.source].spans[index].span
        num_views = self._settings.num_views
        view_index = occurrence if num_views is None else occurrence % num_views
        if index not in opened.rows:
            opened.rows[index] = self._corpus.read_rows(
                span.shard, span.group_start, span.group_stop, columns=columns_for(self._settings.policy)
            )
        if (index, view_index) not in opened.loaded:
            opened.loaded[index, view_index] = self._load(span, opened.rows[index], view_index)
        return span, opened.loaded[index, view_index], int(window.rows[place])

    def _load(self, span: Span, rows: Rows, view_index: int) -> LoadedSpan:
        labels = zip(rows.sample_ids.tolist(), rows.labels.tolist(), strict=True)
        return LoadedSpan(
            rows=rows,
            replay=Replay(rows, policy=self._settings.policy, seed=self._settings.view_seed, max_kept_bytes=0),
            label_of={sample_id: label for sample_id, label in labels if sample_id in self._usable_labels},
            view_index=view_index,
            targets=self._targets.load(span, view_index, rows),
        )

    def _prepare(self, turn: tuple[Span, LoadedSpan, int]) -> Drawn:
        span, loaded, row = turn
        view = loaded.replay.view(row, loaded.view_index)
        size = self._settings.input
        drawn = Drawn(loaded=loaded, row=row, view=view, pixels_HWC=view.render(size.size_px, size.interpolation))
        self._targets.check(span, drawn)
        return drawn

    def _batch(self, drawn: Sequence[Drawn]) -> Batch:
        pixels_BHWC = np.stack([each.pixels_HWC for each in drawn])
        return Batch(
            inputs_BCHW=to_input(pixels_BHWC, self._settings.input),
            labels=_labels_of(drawn),
            targets=self._targets.collect(drawn),
            sample_ids_B=np.array([each.sample_id for each in drawn], dtype=np.uint64),
            view_indices_B=np.array([each.loaded.view_index for each in drawn], dtype=np.int64),
        )


def _labels_of(drawn: Sequence[Drawn]) -> Labels:
    mixes = [mix_of(each.view.params) for each in drawn]
    own = [each.loaded.label_of.get(each.sample_id, NO_LABEL) for each in drawn]
    partners = [
        NO_LABEL if mix is None else each.loaded.label_of.get(mix.partner, NO_LABEL)
        for mix, each in zip(mixes, drawn, strict=True)
    ]
    return Labels(
        own_B=torch.tensor(own, dtype=torch.int64),
        partner_B=torch.tensor(partners, dtype=torch.int64),
        weights_B=torch.tensor([1.0 if mix is None else mix.weight for mix in mixes], dtype=torch.float32),
    )
