"""Manifests: many commit records in one object, so that a collection is opened by tens of reads.

Parts are derived from the records, immutable and named by what they hold; they may go at any time without loss. What
repairs announce keeps a reader from believing a part that was folded before them.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt, StorageError
from kd_ray.storage import Storage

MANIFEST = "manifest"
RECORDS, STATISTICS, NEWER = "records", "statistics", "newer"
NUM_READERS = 16
NUM_LISTINGS = 5
STRAY = "is not the name of a part. Remove the file."

SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("json", pa.string(), nullable=False),
    ]
)
_PART = re.compile(r"^(?P<rows>\d+)-(?P<bytes>\d+)-(?P<digest>[0-9a-f]{32})\.parquet$")


class Row(NamedTuple):
    """One commit: its record without the statistics, or its statistics alone, as canonical JSON."""

    unit: Unit
    generation: int
    json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One object of a manifest; `name` is its path below the storage."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies in the folder of a manifest: the parts by name, the generations that have been announced, and what does
    not belong there.
    """

    records: tuple[str, ...]
    statistics: tuple[str, ...]
    newer: Mapping[Unit, int]
    strays: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All parts of records, and of each unit the row that may be believed."""

    parts: tuple[Part, ...]
    rows: Mapping[Unit, Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """The folder `manifest` of one collection."""

    storage: Storage
    folder: str

    @property
    def part_folders(self) -> tuple[str, str]:
        """Where parts lie, of records and of statistics."""
        return f"{self.folder}/{MANIFEST}/{RECORDS}", f"{self.folder}/{MANIFEST}/{STATISTICS}"

    def location(self, name: str) -> str:
        """The full address of an object, for messages."""
        return f"{self.storage.uri}/{name}"

    def listing(self) -> Listing:
        """What lies here, by one listing."""
        parts: dict[str, list[str]] = {RECORDS: [], STATISTICS: []}
        strays = []
        newer: dict[Unit, int] = {}
        for name in self.storage.list(f"{self.folder}/{MANIFEST}"):
            match name.removeprefix(f"{self.folder}/{MANIFEST}/").split("/"):
                case [("records" | "statistics") as kind, last] if _PART.match(last):
                    parts[kind].append(name)
                case ["newer", last] if (announced := _announced(last)) is not None:
                    unit, generation = announced
                    newer[unit] = max(generation, newer.get(unit, 0))
                case _:
                    strays.append(name)
        return Listing(
            records=tuple(parts[RECORDS]), statistics=tuple(parts[STATISTICS]), newer=newer, strays=tuple(strays)
        )

    def read(self) -> Manifest:
        """All parts of records; one that is removed meanwhile, merged into another, is looked for again.

        Raises:
            CacheCorrupt: a part is not what its name tells, or something else lies among them.
            StorageError: parts were removed during each of NUM_LISTINGS readings.
        """
        held: dict[str, Part] = {}
        for _ in range(NUM_LISTINGS):
            listing = self.listing()
            if listing.strays:
                raise CacheCorrupt(f"{self.location(listing.strays[0])}: {STRAY}")
            held |= {part.name: part for part in self._found([name for name in listing.records if name not in held])}
            if held.keys() >= set(listing.records):
                parts = tuple(held[name] for name in listing.records)
                return Manifest(parts=parts, rows=_believed(parts, listing.newer))
        raise StorageError(
            f"{self.location(self.folder)}/{MANIFEST}: parts were removed during each of {NUM_LISTINGS} readings. "
            "Others are folding commits here; run this again."
        )

    def statistics(self, wanted: Mapping[Unit, int]) -> dict[Unit, str]:
        """The statistics (canonical JSON) of `wanted` units in these generations, as far as they are folded.

        Raises:
            CacheCorrupt: a part is not what its name tells.
        """
        found: dict[Unit, str] = {}
        for name in self.listing().statistics:
            if len(found) == len(wanted):
                break
            for part in self._found([name]):
                found |= {row.unit: row.json for row in part.rows if wanted.get(row.unit) == row.generation}
        return found

    def read_part(self, name: str) -> Part:
        """One part, every byte of it checked.

        Raises:
            CacheCorrupt: it is not what its name tells.
            FileNotFoundError: it is not there.
        """
        data = self.storage.read(name)
        if part_name(data, num_rows=part_size(name)[0]) != name.rsplit("/", 1)[-1]:
            raise self._damaged(name, "its bytes are not those that its name tells of")
        try:
            table = pq.read_table(io.BytesIO(data), schema=SCHEMA)
            columns = (table["unit"].to_pylist(), table["generation"].to_pylist(), table["json"].to_pylist())
            return Part(name=name, rows=tuple(map(_row, *columns)))
        except (pa.ArrowException, ValueError) as error:
            raise self._damaged(name, str(error)) from error

    def write(self, kind: str, rows: Sequence[Row]) -> str:
        """Store `rows` as one part, which may be there already; its name."""
        data = encode_rows(rows)
        name = f"{self.folder}/{MANIFEST}/{kind}/{part_name(data, num_rows=len(rows))}"
        self.storage.create(name, data)
        return name

    def announce(self, unit: Unit, generation: int) -> None:
        """Tell all readers, for ever, that no part may be believed that has an older generation of the unit."""
        self.storage.create(f"{self.folder}/{MANIFEST}/{NEWER}/{unit.id}.{generation}", b"")

    def remove_parts(self) -> None:
        """Remove all parts; what has been announced stays."""
        for folder in self.part_folders:
            self.storage.remove(folder)

    def _found(self, names: Sequence[str]) -> Iterator[Part]:
        def read(name: str) -> Part | None:
            try:
                return self.read_part(name)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(NUM_READERS) as pool:
            yield from (part for part in pool.map(read, names) if part is not None)

    def _damaged(self, name: str, what: str) -> CacheCorrupt:
        return CacheCorrupt(
            f"{self.location(name)}: damaged: {what.rstrip('.')}. Nothing is lost: run kd-ray cache repair with this "
            "recipe, or remove the file."
        )


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Parquet of the rows by unit and generation; equal rows give equal bytes."""
    ordered = sorted(rows, key=lambda row: (row.unit.id, row.generation))
    columns = {
        "unit": [row.unit.id for row in ordered],
        "generation": [row.generation for row in ordered],
        "json": [row.json for row in ordered],
    }
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        sink,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return sink.getvalue()


def part_name(data: bytes, *, num_rows: int) -> str:
    """The last part of the name of a part: rows, bytes, and BLAKE2b-128 of the whole."""
    return f"{num_rows}-{len(data)}-{hashlib.blake2b(data, digest_size=16).hexdigest()}.parquet"


def part_size(name: str) -> tuple[int, int]:
    """Rows and bytes of a part, as its name tells."""
    num_rows, num_bytes, _ = name.rsplit("/", 1)[-1].split("-")
    return int(num_rows), int(num_bytes)


def newest_rows(parts: Sequence[Part]) -> dict[Unit, Row]:
    """The row of the highest generation of each unit."""
    rows: dict[Unit, Row] = {}
    for row in (row for part in parts for row in part.rows):
        held = rows.get(row.unit)
        if held is None or held.generation < row.generation:
            rows[row.unit] = row
    return rows


def _row(unit_id: str, generation: int, json: str) -> Row:
    return Row(Unit.from_id(unit_id), generation, json)


def _announced(name: str) -> tuple[Unit, int] | None:
    unit_id, _, generation = name.rpartition(".")
    try:
        unit = Unit.from_id(unit_id)
    except ValueError:
        return None
    return (unit, int(generation)) if generation.isdecimal() else None


def _believed(parts: Sequence[Part], newer: Mapping[Unit, int]) -> dict[Unit, Row]:
    """The newest row of each unit, where nothing newer has been announced."""
    rows = newest_rows(parts)
    return {unit: row for unit, row in rows.items() if row.generation >= newer.get(unit, 0)}
