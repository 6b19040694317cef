"""Images in Parquet files: encoded bytes, Hugging Face's `{bytes, path}` structs, or locations of image files."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kd_ray.config.corpus import ParquetSection, Split
from kd_ray.corpus.source import Entry, Extent, Input, Reason, Rejected, SplitName
from kd_ray.corpus.sources.annotations import read_class_names
from kd_ray.corpus.sources.containers import (
    Containers,
    Labels,
    OtherColumns,
    changed,
    locate,
    rejected_of,
    size_of,
    unreachable,
)
from kd_ray.corpus.sources.parquet_table import DAMAGE, Table, opened
from kd_ray.errors import StorageError
from kd_ray.storage.base import canonical_json, digest_of_json

SUFFIX = ".parquet"
MAGIC = b"PAR1"

MAX_EXTENT_BYTES = 64 << 20
MAX_EXTENT_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """A `Source` of Parquet rows, each located as `<file>#<row>`.

    `fetch` streams every row group that holds a wanted row, from its start to the last of them.
    """

    section: ParquetSection
    tables: Containers

    @property
    def uri(self) -> str:
        return self.section.uri

    @property
    def is_sequential(self) -> bool:
        return True

    def class_names(self) -> tuple[str, ...]:
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.section.classes_uri is not None:
            return read_class_names(self.section.classes_uri, self.section.access)
        if self.section.label_column is None:
            return ()
        for each in (each for _, _, found in self.tables.walk() for each in found):
            if isinstance(each, Entry):
                try:
                    with self._opened(each.location, size_of(self.tables.files, each)) as table:
                        return table.declared_names
                except StorageError:
                    raise
                except (OtherColumns, *DAMAGE):
                    continue
        return ()

    def _labels(self, table: Table) -> Labels:
        """By the numbers of that file: another may declare its classes in another order."""
        own = () if self.section.classes_uri is not None else table.declared_names
        return Labels(own or self._names)

    def _opened(self, location: str, size_bytes: int) -> AbstractContextManager[Table]:
        return opened(location, size_bytes=size_bytes, section=self.section, files=self.tables.files)

    def extents(self) -> Iterator[Extent]:
        return self.tables.extents(self._cut)

    def _cut(self, entry: Entry, split: SplitName | None) -> Iterator[Extent | Rejected]:
        size = size_of(self.tables.files, entry)
        try:
            with self._opened(entry.location, size) as table:
                for first, stop in _runs(table):
                    yield _extent(table, first, stop, split=split, version=entry.version)
        except (StorageError, FileNotFoundError, PermissionError):
            raise
        except DAMAGE:
            yield Rejected(location=entry.location, reason=self._damage(entry.location, size), size_bytes=size)

    def _damage(self, location: str, size_bytes: int) -> Reason:
        if size_bytes == 0:
            return "empty"
        is_marked = self.tables.files.read_range(location, 0, min(size_bytes, len(MAGIC))) == MAGIC
        return "damaged_archive" if is_marked else "not_an_archive"

    def scan(self, extent: Extent) -> Iterator[Input | Rejected]:
        if (rejected := rejected_of(extent)) is not None:
            yield from rejected
            return
        payload = json.loads(extent.payload)
        location, size = str(payload["location"]), int(payload["size_bytes"])
        try:
            with self._opened(location, size) as table:
                labels = self._labels(table)
                for group in range(int(payload["first"]), int(payload["stop"])):
                    yield from _scan_group(table, group, labels=labels)
        except StorageError:
            raise
        except (FileNotFoundError, PermissionError) as error:
            yield unreachable(error, location, extent.num_bytes)
        except OtherColumns:  # it has changed since it was listed
            yield Rejected(location=location, reason="other_columns", size_bytes=extent.num_bytes)
        except DAMAGE:  # of the footer, which could be read when the file was listed
            yield Rejected(location=location, reason="damaged_archive", size_bytes=extent.num_bytes)

    def fetch(self, locators: Sequence[str]) -> Iterator[Input]:
        rows_of: dict[str, set[int]] = defaultdict(set)
        for locator in locators:
            location, _, row = locator.rpartition("#")
            rows_of[location].add(int(row))
        for location, wanted in sorted(rows_of.items()):
            try:
                for each in self._fetch(location, np.array(sorted(wanted), np.int64)):
                    if isinstance(each, Rejected):
                        raise changed(self.tables.files, each.location, f"it is rejected now ({each.reason})")
                    yield each
            except StorageError:
                raise
            except DAMAGE as error:
                raise changed(self.tables.files, location, "it cannot be read") from error

    def _fetch(self, location: str, wanted: NDArray[np.int64]) -> Iterator[Input | Rejected]:
        size = size_of(self.tables.files, Entry(location=location, size_bytes=0, version=""))
        with self._opened(location, size) as table:
            starts, labels = table.starts, self._labels(table)
            if wanted[-1] >= starts[-1]:
                raise changed(self.tables.files, location, f"it has {starts[-1]} rows and so none {wanted[-1]}")
            for group in np.unique(np.searchsorted(starts, wanted, side="right") - 1).tolist():
                here = wanted[(wanted >= starts[group]) & (wanted < starts[group + 1])]
                yield from _fetch_group(table, group, here, first=int(starts[group]), labels=labels)


def open_parquet(section: ParquetSection, *, split: Split) -> ParquetSource:
    """The Parquet files at `section.uri`: one file, or all `*.parquet` below a folder.

    Raises:
        CorpusError: the split's paths leave the source or overlap.
        StorageError: the location cannot be looked at.
    """
    return ParquetSource(section=section, tables=locate(section, split, suffix=SUFFIX))


def _runs(table: Table) -> Iterator[tuple[int, int]]:
    """Row groups in runs, each (first, stop), within the limits of an extent where they hold more than one."""
    starts, first, num_bytes = table.starts, 0, 0
    for group in range(len(starts) - 1):
        size = table.group_bytes(group)
        is_full = num_bytes + size > MAX_EXTENT_BYTES or starts[group + 1] - starts[first] > MAX_EXTENT_ROWS
        if is_full and group > first:
            yield first, group
            first, num_bytes = group, 0
        num_bytes += size
    if starts[-1] > starts[first]:
        yield first, len(starts) - 1


def _extent(table: Table, first: int, stop: int, *, split: SplitName | None, version: str) -> Extent:
    place = {"location": table.location, "size_bytes": table.size_bytes, "first": first, "stop": stop}
    return Extent(
        split=split,
        num_inputs=int(table.starts[stop] - table.starts[first]),
        num_bytes=sum(map(table.group_bytes, range(first, stop))),
        digest=digest_of_json([place, version]),
        payload=canonical_json(place),
    )


def _scan_group(table: Table, group: int, *, labels: Labels) -> Iterator[Input | Rejected]:
    """The rows of a row group up to where it is damaged, and what is lost from there on as one."""
    first, stop = table.starts[group : group + 2].tolist()
    row = first
    try:
        for batch in table.batches(group):
            yield from table.inputs(batch, range(row, row + batch.num_rows), labels=labels, run=group)
            row += batch.num_rows
    except (StorageError, FileNotFoundError, PermissionError):
        raise
    except DAMAGE:
        pass  # told below, as are rows that the footer only claims
    if row < stop:
        size = table.group_bytes(group) * (stop - row) // (stop - first)
        where = f"{table.location}#{row}-{stop - 1}"
        yield Rejected(location=where, reason="damaged_archive", size_bytes=size)


def _fetch_group(
    table: Table, group: int, wanted: NDArray[np.int64], *, first: int, labels: Labels
) -> Iterator[Input | Rejected]:
    """The rows `wanted`, sorted, of a row group whose first row is `first`."""
    for batch in table.batches(group):
        here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
        if len(here):
            yield from table.inputs(batch.take(pa.array(here - first)), here.tolist(), labels=labels)
        first += batch.num_rows
        if first > wanted[-1]:
            return
    raise pa.ArrowInvalid("fewer rows than the footer claims")
