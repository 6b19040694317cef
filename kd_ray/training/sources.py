"""Where a training run gets its targets: from the cache, or from teachers in the loop."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kd_ray.cache.commits import Commit
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import Output, open_output
from kd_ray.cache.transforms import FrozenTransform, freeze_phi_s
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import find_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input, Teacher
from kd_ray.config.views import Policy
from kd_ray.errors import CacheIncomplete
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.training.batches import TargetKey, TargetSource
from kd_ray.training.targets import CachedTargets, LiveTargets, Pinned

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

    def open(self, device: torch.device) -> CachedTargets:
        """Open every output and pin its units; values are read on the CPU, whatever the student's `device`.

        Raises:
            FingerprintMismatch, CacheIncomplete: the cache does not hold what the run was planned with.
        """
        opened: dict[TargetKey, Output] = {
            key: open_output(self.cache_uri, target_set, output, create=False)
            for key, (target_set, output) in self.outputs.items()
        }
        view_store = find_view_store(self.cache_uri, self.view_set)
        if view_store is None:
            raise CacheIncomplete(
                f"{self.cache_uri}: has no views {self.view_set.folder}. Run the extract stage again; it writes them."
            )
        pinned = Pinned(
            outputs={key: (output, output.collection.pin(self.units)) for key, output in opened.items()},
            views=view_store.collection.pin(self.units),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSource:
    """Which teachers run in the loop, with which weights; `inputs` has what each one gets, by kind of view and name."""

    teachers: Mapping[str, tuple[Teacher, str | None, int | None]]
    needed: frozenset[TargetKey]
    inputs: Mapping[str, Mapping[str, Input]]

    def open(self, device: torch.device) -> dict[str, TargetSource]:
        """Load each teacher once on the student's `device`, for the views of every kind."""
        loaded = {
            name: FrozenTeacher(
                config, num_classes=num_classes, weights_uri=uri, device=device, batch_size=LIVE_BATCH_SIZE
            )
            for name, (config, uri, num_classes) in self.teachers.items()
        }
        return {
            kind: LiveTargets(
                {name: (teacher, inputs[name]) for name, teacher in loaded.items()}, needed=set(self.needed)
            )
            for kind, inputs in self.inputs.items()
        }
