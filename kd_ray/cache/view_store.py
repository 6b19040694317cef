"""A view set on storage: the params and proofs of every view, one Parquet file a unit, shared by all teachers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c

from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec, read_spec, write_or_check
from kd_ray.cache.target_set import SampleIds, members_digest
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt
from kd_ray.storage import Storage, join, open_storage
from kd_ray.views import Proof, ViewRow, decode_views, encode_views

VIEW_SET_FILE = "view_set.json"
VIEWS_OBJECT = "views.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewStore:
    """The views of one view set."""

    spec: Spec
    grid: Grid
    collection: Collection

    def units(self) -> list[Unit]:
        """The units that have been committed."""
        return list(self.collection.commits())

    def write(self, unit: Unit, rows: list[ViewRow], sample_ids: SampleIds, *, attempt: str) -> bool:
        """Store the params and proofs of a unit's views, view by view; False if another attempt was first."""
        return self.collection.publish(
            unit,
            {VIEWS_OBJECT: encode_views(rows)},
            attempt=attempt,
            num_rows=len(sample_ids),
            members_digest=members_digest(sample_ids),
        )

    def proofs(self, commit: Commit, view_index: int) -> list[Proof]:
        """The stored proofs of one view of a unit, in the order of its rows.

        Raises:
            CacheCorrupt: the stored table is missing or does not match its checksums.
        """
        name = self.collection.object_name(commit, VIEWS_OBJECT)
        location = self.collection.location(name)
        try:
            data = self.collection.storage.read(name)
        except FileNotFoundError as error:
            raise CacheCorrupt(f"{location}: is missing, though its unit is committed. Remove the commit.") from error
        size, crc = commit.objects[VIEWS_OBJECT]
        if (len(data), google_crc32c.value(data)) != (size, crc):
            raise CacheCorrupt(
                f"{location}: does not match its commit record ({len(data)} bytes, {size} committed). "
                "Remove the unit's commit and run extract again."
            )
        return [row.proof for row in decode_views(data) if row.view_index == view_index]


def find_view_store(cache_uri: str, spec: Spec) -> ViewStore | None:
    """The view set where it exists, with the grid it was created with; None where it does not.

    Raises:
        FingerprintMismatch: the folder holds another view set than its name says.
    """
    storage = open_storage(join(cache_uri, "views"))
    try:
        recorded = read_spec(storage, f"{spec.folder}/{VIEW_SET_FILE}", wanted=spec)
    except FileNotFoundError:
        return None
    return _view_store(storage, spec, recorded)


def open_view_store(cache_uri: str, spec: Spec, *, grid: Grid) -> ViewStore:
    """The view set `spec` under `cache_uri`, created with `grid` where there is none; the first grid stays.

    Raises:
        FingerprintMismatch: the folder holds another view set than its name says.
    """
    storage = open_storage(join(cache_uri, "views"))
    wanted = {"unit_row_groups": grid.unit_row_groups, "unit_views": grid.unit_views}
    return _view_store(storage, spec, write_or_check(storage, VIEW_SET_FILE, spec, recorded=wanted))


def _view_store(storage: Storage, spec: Spec, recorded: Mapping[str, Any]) -> ViewStore:
    return ViewStore(
        spec=spec,
        grid=Grid(unit_row_groups=recorded["unit_row_groups"], unit_views=recorded["unit_views"]),
        collection=Collection(storage=storage, folder=spec.folder),
    )
