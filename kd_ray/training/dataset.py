"""Batches of a cache for anyone's own training loop, without Ray: the views, labels and targets that the training stage
reads, in finite epochs, over any number of processes.

The state of a run is one number: how many batches of an epoch all ranks together have consumed. The epoch's batch
number b is the same whatever the number of ranks and workers (`kd_ray.cache.epochs`). Of R ranks with k workers each, a
worker makes every (R k)-th batch, and a DataLoader gives its workers' batches in turn, which is their order. So each
batch can say how far the run is once it has been used (`position`), however many were made ahead, and from there a run
may go on with other numbers of ranks and workers.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import torch
from torch.utils.data import IterableDataset, get_worker_info

from kd_ray.cache.epochs import EpochOrder
from kd_ray.cache.stream import SnapshotSpan
from kd_ray.config.dataset import DatasetSettings
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import FingerprintMismatch, RecipeError
from kd_ray.storage import digest_of_json, redacted
from kd_ray.training.batches import BatchStream, Part, StreamKind, StreamSettings
from kd_ray.training.forks import rest_opencv_at_forks
from kd_ray.training.loader import CacheLoader
from kd_ray.training.loading import TargetKey
from kd_ray.training.place import Place, SharedPlace
from kd_ray.training.sources import CachedSource
from kd_ray.training.targets import CachedTargets

Item = dict[str, Any]
State = dict[str, Any]


class CacheDataset(IterableDataset[Item]):
    """Whole batches; one iteration is the rest of one epoch, and `loader` goes on with the next.

    Epoch e shows view e mod `num_views` of every sample. Of the samples of one epoch, shuffled anew each time, the last
    that do not make a batch for each rank are left out; with `keep_last`, for a single rank, they are a smaller batch.

    A batch is a dictionary of tensors:

    - `image` [B, 3, H, W] float32, normalised
    - `label` [B] int64; -1 (`kd_ray.training.losses.NO_LABEL`) for none
    - `partner_label` [B] int64 and `label_weight` [B] float32: of views that mix two samples the other one's label and
      the weight of the first; without mixing -1 and 1
    - `sample_id` [B] uint64, `view_index` [B] int64
    - `targets`: by output [B, …] float32, or by (teacher, output) where several teachers were asked for. `top_k` logits
      are `TopKTargets`; with `decode=False` all are `EncodedTargets`, whose `to(device)` decodes there
    - `position` [2] int64: where the run stands after this one, as the epoch, and how many of its batches all ranks
      have consumed

    Memory of a process: `num_lanes` over all processes, times `shuffle_window` spans of images and targets.
    """

    def __init__(
        self,
        source: CachedSource,
        *,
        corpus: PackedCorpus,
        spans: tuple[SnapshotSpan, ...],
        kind: StreamKind,
        view_seed: int,
        settings: DatasetSettings,
        target_shapes: Mapping[TargetKey, tuple[int, ...]],
        has_several_teachers: bool,
    ) -> None:
        super().__init__()
        assert kind.num_views is not None
        rest_opencv_at_forks()
        self._source, self._corpus, self._spans = source, corpus, spans
        self._kind, self._view_seed, self._settings = kind, view_seed, settings
        self._target_shapes, self._has_several_teachers = target_shapes, has_several_teachers
        self._place = SharedPlace(
            Place(epoch=0, consumed=0, rank=0, num_ranks=1, num_spans=len(spans), num_views=kind.num_views)
        )
        self._opened: tuple[int, CachedTargets] | None = None
        self._warned = False
        self.begin(0, 0)

    def loader(
        self,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        multiprocessing_context: str | None = None,
    ) -> CacheLoader:
        """A DataLoader with `state_dict` and `load_state_dict`, each iteration of which is (the rest of) an epoch.

        Raises:
            RecipeError: `num_lanes` is not a multiple of all worker processes together.
        """
        self.refuse_uneven_lanes(num_workers)
        return CacheLoader(
            self,
            num_workers=num_workers,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            multiprocessing_context=multiprocessing_context,
        )

    @property
    def num_samples(self) -> int:
        """Samples of one epoch, with those that make no batch."""
        return self._order(self._place.read()).num_samples

    @property
    def num_views(self) -> int:
        """How many views of each sample are read, one an epoch."""
        return self._place.read().num_views

    @property
    def target_shapes(self) -> dict[Any, tuple[int, ...]]:
        """Of one view, by the keys of a batch's `targets`."""
        return {self._target_key(key): shape for key, shape in self._target_shapes.items()}

    def __len__(self) -> int:
        """Batches that this rank has in a whole epoch."""
        return self._order(self._place.read()).num_batches // self._ranks()[1]

    def __iter__(self) -> Iterator[Item]:
        # read at once, not with the first batch: the process that started this one may be further by then
        return self._batches(self._place.read())

    def begin(self, epoch: int, consumed: int) -> None:
        """Let the next iteration start in that epoch, where all ranks have consumed so many of its batches.

        Raises:
            RecipeError: an epoch has no batch for each rank, or `keep_last` is asked for with several.
        """
        rank, num_ranks = self._ranks()
        place = self._place.read()
        order = self._order(place)
        if order.num_batches < num_ranks:
            raise RecipeError(
                f"torch_dataset: {order.num_samples} samples make {order.num_batches} batches of {order.batch_size}, "
                f"fewer than the {num_ranks} ranks. Give a smaller batch_size, or keep_last=True to a single rank."
            )
        if order.keep_last and num_ranks > 1:
            raise RecipeError(
                f"torch_dataset: keep_last gives a smaller last batch to one of {num_ranks} ranks and none to the "
                "others, which would wait for it. Leave keep_last out."
            )
        if order.num_batches - consumed < num_ranks:
            epoch, consumed = epoch + 1, 0
        self._place.write(place.at(epoch, consumed, rank=rank, num_ranks=num_ranks))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this whole epoch: for a DataLoader other than that of `loader`."""
        self.begin(epoch, 0)

    @property
    def position(self) -> tuple[int, int]:
        """The epoch in which the next iteration starts, and how many of its batches all ranks have consumed."""
        place = self._place.read()
        return place.epoch, place.consumed

    def state_dict(self, position: Sequence[int] | None = None) -> State:
        """Where a run stands that has used a batch of this `position` (on any rank; its tensor as a list), or where the
        next iteration starts. JSON values, the same on all ranks.
        """
        epoch, consumed = self.position if position is None else position
        return {"epoch": epoch, "batches": consumed, "order": self._identity(self._place.read())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration start where `state` was taken, with any number of ranks and workers.

        A cache that has grown since is read as it was then.

        Raises:
            FingerprintMismatch: this dataset has other samples, or another order; the first difference is named.
        """
        wanted = state["order"]
        now = self._place.read()
        place = now.of(
            num_spans=min(wanted["num_spans"], len(self._spans)),
            num_views=min(wanted["num_views"], self._kind.num_views or 0),
        )
        for name, found in self._identity(place).items():
            if found != wanted.get(name):
                raise FingerprintMismatch(
                    f"{redacted(self._source.cache_uri)}: the state to go on from has {name} {wanted.get(name)!r}, "
                    f"this dataset {found!r}. Open it with the cache and the arguments that the run began with."
                )
        self._place.write(place)
        self.begin(state["epoch"], state["batches"])

    def refuse_uneven_lanes(self, num_workers: int) -> None:
        """Raise RecipeError where the lanes cannot be dealt evenly to the workers of all ranks."""
        num_ranks, num_lanes = self._ranks()[1], self._settings.num_lanes
        if num_lanes % (num_ranks * max(num_workers, 1)):
            raise RecipeError(
                f"torch_dataset: num_lanes is {num_lanes}, not a multiple of {num_ranks} ranks times "
                f"{max(num_workers, 1)} workers. Give a num_lanes that is (it is part of the order: keep it for the "
                "whole run), or another number of workers."
            )

    def _ranks(self) -> tuple[int, int]:
        """This process's rank and how many there are."""
        if self._settings.rank is not None and self._settings.num_ranks is not None:
            return self._settings.rank, self._settings.num_ranks
        if get_worker_info() is None and torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        place = self._place.read()
        return (place.rank, place.num_ranks) if get_worker_info() is not None else (0, 1)

    def _order(self, place: Place) -> EpochOrder:
        settings = self._settings
        return EpochOrder(
            spans=self._spans[: place.num_spans],
            seed=settings.seed,
            batch_size=settings.batch_size,
            num_lanes=settings.num_lanes,
            window=settings.shuffle_window,
            shuffle=settings.shuffle,
            keep_last=settings.keep_last,
        )

    def _identity(self, place: Place) -> dict[str, Any]:
        """What decides which batches come."""
        settings = self._settings
        spans = [
            [each.span.shard, each.span.group_start, each.span.group_stop, len(each.rows)]
            for each in self._spans[: place.num_spans]
        ]
        return {
            "view_set": self._source.view_set.fingerprint,
            "num_views": place.num_views,
            "num_spans": place.num_spans,
            "spans": digest_of_json(spans),
            "batch_size": settings.batch_size,
            "shuffle": settings.shuffle,
            "seed": settings.seed,
            "keep_last": settings.keep_last,
            "num_lanes": settings.num_lanes,
            "shuffle_window": settings.shuffle_window,
        }

    def _batches(self, place: Place) -> Iterator[Item]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        if info is not None and cv2.getNumThreads() > 1:  # a spawned one: a forked one has one already
            cv2.setNumThreads(1)  # worker processes share the cores already
        self.refuse_uneven_lanes(num_workers)
        order = self._order(place)
        steps = (order.num_batches - place.consumed) // place.num_ranks
        numbers = range(
            place.consumed + place.rank + worker * place.num_ranks,
            place.consumed + steps * place.num_ranks,
            num_workers * place.num_ranks,
        )
        targets = self._open()
        batches = self._stream(place, order, targets).of_epoch(place.epoch, numbers)
        try:
            for number, batch in zip(numbers, batches, strict=True):
                (part,) = batch.parts
                consumed = number - place.rank + place.num_ranks
                is_last = order.num_batches - consumed < place.num_ranks
                yield self._item(part, position=(place.epoch + 1, 0) if is_last else (place.epoch, consumed))
                self._tell_of_rounding(targets)
        finally:
            batches.close()

    def _open(self) -> CachedTargets:
        """What is read from, opened once in each process: connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self._source.open(torch.device("cpu"))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _stream(self, place: Place, order: EpochOrder, targets: CachedTargets) -> BatchStream:
        kind, kept = replace(self._kind, num_views=place.num_views), self._source.kept
        settings = StreamSettings(
            kinds=(kind,),
            view_seed=self._view_seed,
            repeats=1,
            global_batch_size=order.batch_size,
            num_threads=self._settings.num_threads,
        )
        return BatchStream(
            settings,
            order,
            corpus=self._corpus,
            usable_labels=None,
            targets={kind.name: targets},
            views=None if kept is None else {kind.name: targets.stored_views(kept)},
        )

    def _item(self, part: Part, *, position: tuple[int, int]) -> Item:
        targets = {
            self._target_key(key): each.to(torch.device("cpu")) if self._settings.decode else each
            for key, each in part.targets.items()
        }
        return {
            "image": part.inputs_BCHW,
            "label": part.labels.own_B,
            "partner_label": part.labels.partner_B,
            "label_weight": part.labels.weights_B,
            "sample_id": torch.from_numpy(part.sample_ids_B),
            "view_index": torch.from_numpy(part.view_indices_B),
            "targets": targets,
            "position": torch.tensor(position, dtype=torch.int64),
        }

    def _target_key(self, key: TargetKey) -> TargetKey | str:
        return key if self._has_several_teachers else key[1]

    def _tell_of_rounding(self, targets: CachedTargets) -> None:
        if targets.num_rounded and not self._warned:
            self._warned = True
            warnings.warn(
                "views differ from what the teacher saw by rounding: the images are decoded by another library here. "
                "Install what the view set records.",
                stacklevel=2,
            )
