"""A view set on storage: the params and proofs of every view, and its pixels where they are kept; Parquet files a unit,
shared by all teachers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.kept_pixels import damaged, encode_kept, footer_of, read_footer, read_kept
from kd_ray.cache.plan import Grid, wanted_units
from kd_ray.cache.spec import Spec, read_spec, write_or_check
from kd_ray.cache.target_set import SampleIds, members_digest, refuse_other_members
from kd_ray.cache.units import Span, Unit
from kd_ray.errors import CacheCorrupt, StorageError
from kd_ray.storage import Storage, absolute, join, open_storage, redacted
from kd_ray.storage.checksum import crc32c
from kd_ray.storage.range_file import RangeFile
from kd_ray.views import Proof, ViewRow, decode_views, encode_views, renderer_versions

VIEW_SET_FILE = "view_set.json"
VIEWS_OBJECT = "views.parquet"
PIXELS_OBJECT = "pixels.parquet"
NUM_FOOTERS = 64  # of units with kept pixels; what the lanes of one worker have open at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewStore:
    """The views of one view set; `corpus_uri` is where the corpus lay when it was created, where that is recorded."""

    spec: Spec
    grid: Grid
    collection: Collection
    corpus_uri: str | None = None
    _footers: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def units(self) -> list[Unit]:
        """The units that have been committed."""
        return sorted(self.collection.newest_generations())

    def units_for(self, spans: Sequence[Span], *, num_views: int) -> list[Unit]:
        """The committed units; nothing is listed where those in manifests cover all views [0, num_views) of `spans`."""
        folded = self.collection.manifests.read().rows
        if folded.keys() >= set(wanted_units(spans, num_views=num_views, grid=self.grid, existing=folded)):
            return sorted(folded)
        return self.units()

    def write(
        self,
        unit: Unit,
        rows: list[ViewRow],
        sample_ids: SampleIds,
        *,
        attempt: str,
        pixels: Sequence[bytes] | None = None,
        generation: int = 0,
    ) -> bool:
        """Store the params and proofs of a unit's views, view by view, and their `pixels` where they are kept; False if
        another attempt was first.
        """
        objects, footers = {VIEWS_OBJECT: encode_views(rows)}, {}
        if pixels is not None:
            objects[PIXELS_OBJECT] = encode_kept(unit, sample_ids, pixels)
            footers[PIXELS_OBJECT] = footer_of(objects[PIXELS_OBJECT])
        return self.collection.publish(
            unit,
            objects,
            attempt=attempt,
            num_rows=len(sample_ids),
            members_digest=members_digest(sample_ids),
            footers=footers,
            generation=generation,
        )

    def proofs(self, commit: Commit, view_index: int) -> list[Proof]:
        """The stored proofs of one view of a unit, in the order of its rows; raises what `rows` does."""
        return [row.proof for row in self.rows(commit, view_index)]

    def rows(self, commit: Commit, view_index: int | None = None) -> list[ViewRow]:
        """What is stored of one view of a unit, or of all, in the order of its rows.

        Raises:
            CacheCorrupt: the stored table is missing or does not match its checksums.
        """
        name = self.collection.object_name(commit, VIEWS_OBJECT)
        location = self.collection.location(name)
        try:
            data = self.collection.storage.read(name)
        except FileNotFoundError as error:
            raise CacheCorrupt(
                f"{location}: is missing, though its unit is committed. Run kd-ray cache repair with this recipe."
            ) from error
        size, crc = commit.objects[VIEWS_OBJECT]
        if (len(data), crc32c(data)) != (size, crc):
            raise CacheCorrupt(
                f"{location}: does not match its commit record ({len(data)} bytes, {size} committed). "
                "Run kd-ray cache repair with this recipe."
            )
        return decode_views(data, view_index=view_index)

    def pixels(self, commit: Commit, view_index: int, *, sample_ids: SampleIds) -> list[bytes]:
        """The kept pixels of one view of a unit, encoded, for the samples that the corpus has in its span.

        Raises:
            CacheCorrupt: they are missing, fail a checksum, or are of other samples.
        """
        refuse_other_members(self.collection, commit, sample_ids)
        name = self.collection.object_name(commit, PIXELS_OBJECT)
        location = self.collection.location(name)
        if PIXELS_OBJECT not in commit.objects or PIXELS_OBJECT not in commit.footers:
            raise damaged(location, "the commit of its unit names no such object")
        storage = self.collection.storage
        file = RangeFile(
            lambda start, stop: storage.read_range(name, offset=start, length=stop - start),
            size_bytes=commit.objects[PIXELS_OBJECT][0],  # a file of another length reads as damaged
        )
        try:
            footer = self._footers.get(name)
            if footer is None:
                footer = self._footers[name] = read_footer(file, commit.footers[PIXELS_OBJECT], location=location)
                for oldest in list(self._footers)[:-NUM_FOOTERS]:
                    self._footers.pop(oldest, None)
            return read_kept(file, footer, commit.unit, view_index=view_index, sample_ids=sample_ids, location=location)
        except (CacheCorrupt, StorageError):
            raise
        except FileNotFoundError as error:
            raise damaged(location, "is missing, though its unit is committed") from error
        except (pa.ArrowException, OSError) as error:
            raise damaged(location, str(error)) from error


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
    return view_store_of(storage, spec, recorded)


def open_view_store(cache_uri: str, spec: Spec, *, grid: Grid, corpus_uri: str | None = None) -> ViewStore:
    """The view set `spec` under `cache_uri`, created with `grid` where there is none; the first grid stays, and the
    first `corpus_uri`, by which a reader finds the corpus.

    Raises:
        FingerprintMismatch: the folder holds another view set than its name says.
    """
    storage = open_storage(join(cache_uri, "views"))
    wanted: dict[str, Any] = {
        "unit_row_groups": grid.unit_row_groups,
        "unit_views": grid.unit_views,
        "libraries": renderer_versions(),
    }
    if corpus_uri is not None and redacted(corpus_uri) == corpus_uri:  # a cache is given to others
        wanted["corpus_uri"] = absolute(corpus_uri)
    return view_store_of(storage, spec, write_or_check(storage, VIEW_SET_FILE, spec, recorded=wanted))


def view_store_of(storage: Storage, spec: Spec, recorded: Mapping[str, Any]) -> ViewStore:
    """The view set whose identity file below `storage` records this."""
    return ViewStore(
        spec=spec,
        grid=Grid(unit_row_groups=recorded["unit_row_groups"], unit_views=recorded["unit_views"]),
        collection=Collection(storage=storage, folder=spec.folder),
        corpus_uri=recorded.get("corpus_uri"),
    )
