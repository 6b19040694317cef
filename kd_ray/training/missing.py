"""Which units of what a run reads were not committed when it was planned."""

from collections.abc import Collection as Members
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_ray.cache.commits import Collection
from kd_ray.cache.plan import missing_units
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import find_output
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import find_view_store
from kd_ray.training.loading import TargetKey

Outputs = Mapping[TargetKey, tuple[Spec, Spec]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Of one kind of views: the units without views, and by (teacher, output) those without targets."""

    views: frozenset[Unit] = frozenset()
    outputs: Mapping[TargetKey, frozenset[Unit]] = field(default_factory=dict)

    def of(self, key: TargetKey) -> frozenset[Unit]:
        """Those of one output."""
        return self.outputs.get(key, frozenset())

    @property
    def targets(self) -> frozenset[Unit]:
        """Units that lack the targets of at least one output."""
        return frozenset().union(*self.outputs.values())

    @property
    def units(self) -> frozenset[Unit]:
        """Units of which anything is missing."""
        return self.views | self.targets

    @property
    def spans(self) -> frozenset[Span]:
        """Spans of those units."""
        return frozenset(unit.span for unit in self.units)

    def to_json(self) -> dict[str, Any]:
        """Names of units, sorted; `from_json` reads it."""
        return {
            "views": sorted(unit.id for unit in self.views),
            "outputs": [[*key, sorted(unit.id for unit in units)] for key, units in sorted(self.outputs.items())],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Missing":
        """The inverse of `to_json`."""
        return Missing(
            views=frozenset(map(Unit.from_id, value["views"])),
            outputs={(teacher, output): frozenset(map(Unit.from_id, ids)) for teacher, output, ids in value["outputs"]},
        )


def find_missing(cache_uri: str, view_set: Spec, outputs: Outputs, *, wanted: Sequence[Unit]) -> Missing:
    """What is missing now of the `wanted` units; outputs of which nothing is are not named.

    Raises:
        FingerprintMismatch: a folder of the cache does not hold what its name says.
    """
    store = find_view_store(cache_uri, view_set)
    found = {}
    for key, (target_set, spec) in outputs.items():
        output = find_output(cache_uri, target_set, spec)
        found[key] = _missing(wanted, output.collection if output is not None else None)
    return Missing(
        views=_missing(wanted, store.collection if store is not None else None),
        outputs={key: units for key, units in found.items() if units},
    )


def _missing(wanted: Sequence[Unit], collection: Collection | None) -> frozenset[Unit]:
    committed: Members[Unit] = () if collection is None else collection.newest_generations()
    return frozenset(missing_units(wanted, committed))
