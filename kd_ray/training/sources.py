"""Where a training run gets its targets: from the cache, from teachers in the loop, or from both."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from kd_ray.cache.commits import Collection, Commit, PinnedUnits
from kd_ray.cache.seen_views import SeenViews
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import Output, open_output, unchecked_output
from kd_ray.cache.transforms import FrozenTransform, freeze_phi_s
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import ViewStore, find_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import Policy
from kd_ray.errors import CacheIncomplete, FingerprintMismatch
from kd_ray.storage import join, open_storage
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.training.loading import TargetKey
from kd_ray.training.missing import Missing
from kd_ray.training.targets import CachedTargets, LiveTargets, Pinned
from kd_ray.training.views import StoredViews
from kd_ray.training.waiting import AwaitedUnits, Patience, awaited_output

LIVE_BATCH_SIZE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSource:
    """Which committed units a run reads of one kind of views; the views, too, where their pixels are kept."""

    cache_uri: str
    view_set: Spec
    outputs: Mapping[TargetKey, tuple[Spec, Spec]]
    units: tuple[Unit, ...]
    policy: Policy
    verify_one_in: int
    kept: KeptFormat | None = None

    def open(self, device: torch.device, *, patience: Patience | None = None) -> CachedTargets:
        """Open every output and pin its units; values are read on the CPU, whatever the student's `device`.

        With `patience`, what is not committed yet is waited for.

        Raises:
            FingerprintMismatch, CacheIncomplete: the cache does not hold what the run was planned with.
        """
        opened = {key: self._output(*specs, patience) for key, specs in self.outputs.items()}
        view_store = self._view_store(patience)
        pinned = Pinned(
            outputs={key: (output, self._pin(output.collection, patience)) for key, output in opened.items()},
            views=self._pin(view_store.collection, patience),
        )
        return CachedTargets(pinned, view_store=view_store, policy=self.policy, verify_one_in=self.verify_one_in)

    def freeze_phi_s(self, key: TargetKey, *, version: int) -> FrozenTransform:
        """PHI-S of one output: the one that is frozen, else made of those of the run's units that are committed.

        Raises what `kd_ray.cache.transforms.freeze_phi_s` does.
        """
        output = open_output(self.cache_uri, *self.outputs[key], create=False)

        def commits() -> list[Commit]:
            found = output.collection.commits()
            return [found[unit] for unit in self.units if unit in found]

        return freeze_phi_s(output, commits, cache_uri=self.cache_uri, version=version)

    def open_rest(self, missing: Missing) -> tuple[Pinned, ViewStore | None]:
        """All but the units that were `missing` when the run was planned, whatever has been committed since; the views
        where there are any.

        Raises:
            FingerprintMismatch, CacheIncomplete: the cache does not hold what the run was planned with.
        """
        view_store = find_view_store(self.cache_uri, self.view_set)
        views = [unit for unit in self.units if unit not in missing.views]
        outputs: dict[TargetKey, tuple[Output, PinnedUnits]] = {}
        for key, (target_set, spec) in self.outputs.items():
            wanted = [unit for unit in self.units if unit not in missing.of(key)]
            output = (
                open_output(self.cache_uri, target_set, spec, create=False)
                if wanted
                else unchecked_output(self.cache_uri, target_set, spec)
            )
            outputs[key] = (output, output.collection.pin(wanted))
        if view_store is None and views:
            raise self._without_views()
        pinned = Pinned(outputs=outputs, views=view_store.collection.pin(views) if view_store is not None else {})
        return pinned, view_store

    def seen(self, store: ViewStore | None, pinned: Pinned) -> SeenViews | None:
        """The views that are pinned, to be compared with; None where there are none."""
        if store is None:
            return None
        return SeenViews(store, pinned.views, policy=self.policy, verify_one_in=self.verify_one_in)

    def stored(self, store: ViewStore | None, pinned: Pinned) -> StoredViews | None:
        """The views that are pinned, where their pixels are kept and there are any."""
        if store is None or self.kept is None:
            return None
        return StoredViews(store=store, units=pinned.views, policy=self.policy, kept=self.kept)

    def num_committed(self) -> int:
        """How many units of these outputs and views there are now."""
        return sum(len(each.newest_generations()) for each in self._collections())

    def _collections(self) -> list[Collection]:
        outputs = [
            unchecked_output(self.cache_uri, target_set, spec).collection for target_set, spec in self.outputs.values()
        ]
        views = Collection(storage=open_storage(join(self.cache_uri, "views")), folder=self.view_set.folder)
        return [*outputs, views]

    def _output(self, target_set: Spec, spec: Spec, patience: Patience | None) -> Output:
        if patience is not None:
            return awaited_output(self.cache_uri, target_set, spec, patience=patience)
        return open_output(self.cache_uri, target_set, spec, create=False)

    def _view_store(self, patience: Patience | None) -> ViewStore:
        def look() -> ViewStore | None:
            return find_view_store(self.cache_uri, self.view_set)

        if patience is not None:
            return patience.wait_for(look, what=f"views {self.view_set.folder}", where=self.cache_uri)
        found = look()
        if found is None:
            raise self._without_views()
        return found

    def _without_views(self) -> CacheIncomplete:
        return CacheIncomplete(
            f"{self.cache_uri}: has no views {self.view_set.folder}. Run the extract stage again; it writes them."
        )

    def _pin(self, collection: Collection, patience: Patience | None) -> PinnedUnits:
        if patience is not None:
            return AwaitedUnits(collection, self.units, patience=patience)
        return collection.pin(self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSource:
    """Which teachers run in the loop, with which weights; `inputs` has what each one gets, by kind of view and name.

    `fingerprints` are of weights that must be these and no others, by name.
    """

    teachers: Mapping[str, tuple[Teacher, str | None, int | None]]
    needed: frozenset[TargetKey]
    inputs: Mapping[str, Mapping[str, Input]]
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def open(self, device: torch.device) -> dict[str, LiveTargets]:
        """Load each teacher once on the student's `device`, for the views of every kind.

        Raises:
            FingerprintMismatch: weights have changed since the run was planned.
        """
        loaded = {
            name: FrozenTeacher(
                config, num_classes=num_classes, weights_uri=uri, device=device, batch_size=LIVE_BATCH_SIZE
            )
            for name, (config, uri, num_classes) in self.teachers.items()
        }
        for name, fingerprint in self.fingerprints.items():
            if loaded[name].weights_fingerprint != fingerprint:
                raise FingerprintMismatch(
                    f"teacher {name}: weights are {loaded[name].weights_fingerprint[:12]}, the run was planned with "
                    f"{fingerprint[:12]}. Somebody replaced them meanwhile; run again."
                )
        return {
            kind: LiveTargets(
                {name: (teacher, inputs[name]) for name, teacher in loaded.items()}, needed=set(self.needed)
            )
            for kind, inputs in self.inputs.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSource:
    """What is cached by kind of view, and the teachers of `live` for what was `missing` when the run was planned."""

    cached: Mapping[str, CachedSource]
    missing: Mapping[str, Missing]
    live: LiveSource
