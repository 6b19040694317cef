"""From an order of samples to batches: the view, replayed or read, and its targets; ahead of the loop, in threads.

Shape letters: B batch, C channels, H W pixels, N rows of a span.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.cache.epochs import EpochOrder
from kd_ray.cache.order import Order, lanes_of
from kd_ray.cache.stream import Window
from kd_ray.cache.units import Span
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.views import Policy, Views
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.models.pixels import to_input
from kd_ray.training.encoded import EncodedTargets
from kd_ray.training.loading import LoadedSpan, Loader, Place, TargetKey
from kd_ray.training.losses.labels import NO_LABEL, Labels
from kd_ray.training.prefetch import prefetched
from kd_ray.training.views import ReplayedViews, RowImage, ViewSource
from kd_ray.views import AnyView, mix_of

PREFETCHED_BATCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The views of one kind in a batch, those of one sample one after another.

    Labels are NO_LABEL where none may be used, targets are [B, …] by (teacher, output), as a live teacher gives them or
    as they are stored.
    """

    inputs_BCHW: Tensor
    labels: Labels
    targets: Mapping[TargetKey, Tensor | EncodedTargets]
    sample_ids_B: NDArray[np.uint64]
    view_indices_B: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample_ids_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step consumes: the views of the same samples, a part for each kind in the policy's order.

    `num_images` counts a sample once for each repeat.
    """

    parts: tuple[Part, ...]
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One sample's turn: its view, that as the student sees it, and where its targets are."""

    loaded: LoadedSpan
    row: int
    view: AnyView
    pixels_HWC: NDArray[np.uint8]

    @property
    def sample_id(self) -> int:
        return int(self.loaded.rows.sample_ids[self.row])


class TargetSource(Protocol):
    """Where targets come from: the cache, a live teacher, or nowhere."""

    @property
    def num_rounded(self) -> int:
        """How many of the checked views differ from the teacher's by the rounding of another decoder."""

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, Mapping[str, NDArray[Any]]]:
        """What is read for a whole span at once: the stored arrays [N, …] by name, by (teacher, output)."""

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, Tensor | EncodedTargets]:
        """The targets of one part of a batch, [B, …] by (teacher, output); tensors are float32."""

    def check(self, span: Span, drawn: Drawn) -> None:
        """Compare the replayed view with the stored digest where this view is one of those to be checked.

        Raises:
            ViewMismatch: the view is not the one that the teacher saw.
        """


class NoTargets:
    """Plain supervised training."""

    num_rounded = 0

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, Mapping[str, NDArray[Any]]]:
        """Nothing to read."""
        return {}

    def collect(self, drawn: Sequence[Drawn]) -> Mapping[TargetKey, Tensor | EncodedTargets]:
        """No targets."""
        return {}

    def check(self, span: Span, drawn: Drawn) -> None:
        """Nobody else saw this view, so there is nothing to compare it with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamKind:
    """One kind of views: `num_crops` of them at each repeat of a sample, as `input` wants them.

    `num_views` None draws fresh views each time instead of going round. Where views are not read from a cache, `kept`
    says through which codec they go, as they would if they were.
    """

    name: str
    policy: Policy
    num_crops: int
    num_views: int | None
    input: Input
    kept: KeptFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What decides the batches of a run; `global_batch_size` counts a sample once for each of its `repeats`."""

    kinds: tuple[StreamKind, ...]
    view_seed: int
    repeats: int
    global_batch_size: int
    num_threads: int

    @property
    def samples_per_step(self) -> int:
        """How many samples all workers together take for a batch."""
        return self.global_batch_size // self.repeats

    def num_crops(self, kind: StreamKind) -> int:
        """How many views of this kind a sample has each time."""
        return self.repeats * kind.num_crops

    def views_at(self, kind: StreamKind, occurrence: int) -> tuple[int, ...]:
        """The views of a sample that has come `occurrence` times before: the next ones of this kind."""
        num_views = self.num_crops(kind)
        indices = range(occurrence * num_views, (occurrence + 1) * num_views)
        return tuple(indices) if kind.num_views is None else tuple(index % kind.num_views for index in indices)


def stream_kinds(views: Views, input: Input, *, fresh: bool) -> tuple[StreamKind, ...]:
    """The kinds of a recipe's views for a model with this input; `fresh` ones are never seen twice, nor stored."""
    return tuple(
        StreamKind(
            name=kind,
            policy=views.policy.of_kind(kind),
            num_crops=views.policy.num_crops(kind),
            num_views=None if fresh else views.num_views(kind),
            input=input.of_kind(views.policy, kind),
            kept=None if fresh else views.kept(kind),
        )
        for kind in views.policy.kind_names
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A sample that has come up: its place in a span, and by kind what is loaded of each of its views."""

    span: Span
    row: int
    loaded: tuple[tuple[LoadedSpan, ...], ...]


class BatchStream:
    """The batches of one worker: of an `Order` endlessly, from any point of the run on, or of epochs.

    `targets` and `views` are by kind of view; `views` None replays them. `usable_labels` None: every label may be used.
    """

    def __init__(
        self,
        settings: StreamSettings,
        order: Order | EpochOrder,
        *,
        corpus: PackedCorpus,
        usable_labels: frozenset[int] | None,
        targets: Mapping[str, TargetSource],
        views: Mapping[str, ViewSource] | None = None,
    ) -> None:
        self._settings = settings
        self._views = views or {
            kind.name: ReplayedViews(policy=kind.policy, seed=settings.view_seed, kept=kind.kept)
            for kind in settings.kinds
        }
        self._order = order
        self._corpus = corpus
        self._usable_labels = usable_labels
        self._targets = targets

    def batches(self, *, worker: int, num_workers: int, consumed: int) -> prefetched[Batch]:
        """Batches of this worker after the first `consumed` samples of the run (over all workers)."""
        return prefetched(self._batches(worker, num_workers, consumed), depth=PREFETCHED_BATCHES)

    def of_epoch(self, epoch: int, numbers: range) -> prefetched[Batch]:
        """The batches of these numbers of one epoch; their step divides the order's lanes."""
        return prefetched(self._of_epoch(epoch, numbers), depth=PREFETCHED_BATCHES)

    def _of_epoch(self, epoch: int, numbers: range) -> Iterator[Batch]:
        order = self._order
        assert isinstance(order, EpochOrder), "finite epochs"
        assert order.num_lanes % numbers.step == 0, (order.num_lanes, numbers)
        lanes: dict[int, Iterator[_Turn]] = {}
        with ThreadPoolExecutor(self._settings.num_threads) as pool, self._loader() as loader:
            for number in numbers:
                lane = number % order.num_lanes
                if lane not in lanes:
                    lanes[lane] = self._turns(order.draws(epoch, number), loader)
                yield self._batch(list(islice(lanes[lane], order.size_of(number))), pool)

    def _batches(self, worker: int, num_workers: int, consumed: int) -> Iterator[Batch]:
        order = self._order
        assert isinstance(order, Order), "an endless stream"
        per_lane = self._settings.samples_per_step // order.num_lanes
        skip = consumed // order.num_lanes
        mine = lanes_of(worker, num_workers=num_workers, num_lanes=order.num_lanes)
        with ThreadPoolExecutor(self._settings.num_threads) as pool, self._loader() as loader:
            lanes = [self._turns(order.draws(lane, skip=skip), loader) for lane in mine]
            while True:
                yield self._batch([next(lane) for lane in lanes for _ in range(per_lane)], pool)

    def _batch(self, turns: Sequence[_Turn], pool: ThreadPoolExecutor) -> Batch:
        prepared = list(pool.map(self._prepare, turns))
        parts = tuple(
            self._part(kind, [drawn for by_kind in prepared for drawn in by_kind[number]])
            for number, kind in enumerate(self._settings.kinds)
        )
        return Batch(parts=parts, num_images=len(turns) * self._settings.repeats)

    def _loader(self) -> Loader:
        return Loader(places=self._places, read_rows=self._read_rows, load=self._load)

    def _turns(self, draws: Iterator[tuple[Window, int]], loader: Loader) -> Iterator[_Turn]:
        for window, place, loaded in loader.drawn(draws):
            each = iter(loaded)
            by_kind = tuple(tuple(islice(each, self._settings.num_crops(kind))) for kind in self._settings.kinds)
            span = self._span(window.source, int(window.span_indices[place]))
            yield _Turn(span=span, row=int(window.rows[place]), loaded=by_kind)

    def _places(self, window: Window, place: int) -> tuple[Place, ...]:
        """What one sample needs, kind by kind."""
        index, occurrence = int(window.span_indices[place]), int(window.occurrences[place])
        return tuple(
            Place(source=window.source, span_index=index, kind=number, view_index=view_index)
            for number, kind in enumerate(self._settings.kinds)
            for view_index in self._settings.views_at(kind, occurrence)
        )

    def _span(self, source: int, index: int) -> Span:
        return self._order.sources[source].spans[index].span

    def _read_rows(self, place: Place) -> Rows:
        span = self._span(place.source, place.span_index)
        columns = {column for source in self._views.values() for column in source.columns}
        return self._corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=columns)

    def _load(self, place: Place, rows: Rows) -> LoadedSpan:
        kind, span = self._settings.kinds[place.kind].name, self._span(place.source, place.span_index)
        labels = zip(rows.sample_ids.tolist(), rows.labels.tolist(), strict=True)
        usable = self._usable_labels
        return LoadedSpan(
            rows=rows,
            views=self._views[kind].load(span, place.view_index, rows),
            label_of={sample_id: label for sample_id, label in labels if usable is None or sample_id in usable},
            view_index=place.view_index,
            targets=self._targets[kind].load(span, place.view_index, rows),
        )

    def _prepare(self, turn: _Turn) -> list[list[Drawn]]:
        """By kind, the views of one sample, whose image is decoded once for all of them."""
        prepared = []
        image = RowImage(turn.loaded[0][0].rows, turn.row)
        for kind, loaded in zip(self._settings.kinds, turn.loaded, strict=True):
            drawn = [self._drawn(kind, each, turn.row, image) for each in loaded]
            for each in drawn:
                self._targets[kind.name].check(turn.span, each)
            prepared.append(drawn)
        return prepared

    def _drawn(self, kind: StreamKind, loaded: LoadedSpan, row: int, image: RowImage) -> Drawn:
        view = loaded.views.view(row, loaded.view_index, image=image)
        size = kind.input
        return Drawn(loaded=loaded, row=row, view=view, pixels_HWC=view.render(size.size_px, size.interpolation))

    def _part(self, kind: StreamKind, drawn: Sequence[Drawn]) -> Part:
        pixels_BHWC = np.stack([each.pixels_HWC for each in drawn])
        return Part(
            inputs_BCHW=to_input(pixels_BHWC, kind.input),
            labels=_labels_of(drawn),
            targets=self._targets[kind.name].collect(drawn),
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
