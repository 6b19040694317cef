"""The record that makes one unit exist, as JSON and as rows of a manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kd_ray.cache.arrays import ArrayLayout
from kd_ray.cache.manifest import Row
from kd_ray.cache.spec import FORMAT_VERSION
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt
from kd_ray.storage.base import canonical_json
from kd_ray.storage.checksum import crc32c


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The record that makes one unit exist; `statistics` are None where they were left out in reading."""

    unit: Unit
    generation: int
    attempt: str
    num_rows: int
    members_digest: str
    objects: Mapping[str, tuple[int, int]]
    arrays: Mapping[str, ArrayLayout] = field(default_factory=dict)
    statistics: Mapping[str, Any] | None = field(default_factory=dict)
    footers: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all objects of the attempt."""
        return sum(size for size, _ in self.objects.values())

    def to_json(self) -> bytes:
        """Canonical JSON, as stored; `crc32c` is that of the same record without it."""
        assert self.statistics is not None, self.unit
        record = {
            "format": FORMAT_VERSION,
            "unit": self.unit.id,
            "generation": self.generation,
            "attempt": self.attempt,
            "rows": self.num_rows,
            "members": self.members_digest,
            "objects": {name: {"bytes": size, "crc32c": crc} for name, (size, crc) in self.objects.items()},
            "arrays": {
                name: {
                    "object": layout.object_name,
                    "dtype": layout.dtype,
                    "shape": layout.shape,
                    "ranges": layout.ranges,
                }
                for name, layout in self.arrays.items()
            },
            "statistics": self.statistics,
        }
        if self.footers:
            record["footers"] = {name: {"bytes": size, "crc32c": crc} for name, (size, crc) in self.footers.items()}
        return canonical_json({**record, "crc32c": crc32c(canonical_json(record))})

    @staticmethod
    def from_json(data: bytes, *, location: str) -> "Commit":
        """The inverse of `to_json`.

        Raises:
            CacheCorrupt: it is not a commit record of a format this version reads, or it has changed since.
        """
        try:
            return _commit_of(_checked_record(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheCorrupt(
                f"{location}: is not a readable commit record: {error}. Run kd-ray cache repair with this recipe."
            ) from error

    def rows(self) -> tuple[Row, Row | None]:
        """What a manifest holds of it: the record, and its statistics where it has any."""
        record = json.loads(self.to_json())
        statistics = record.pop("statistics")
        return (
            Row(self.unit, self.generation, canonical_json(record).decode()),
            Row(self.unit, self.generation, canonical_json(statistics).decode()) if statistics else None,
        )

    @staticmethod
    def from_row(row: Row, *, location: str) -> "Commit":
        """Of a manifest's row, without the statistics.

        Raises:
            CacheCorrupt: it is no record of a format this version reads.
        """
        try:
            return replace(_commit_of(_known_format(json.loads(row.json))), statistics=None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheCorrupt(
                f"{location}: has no readable record of {row.unit.id}: {error}. Nothing is lost: remove the folder."
            ) from error


def _commit_of(value: Mapping[str, Any]) -> Commit:
    arrays = {
        name: ArrayLayout(
            object_name=each["object"],
            dtype=each["dtype"],
            shape=tuple(each["shape"]),
            ranges=tuple((offset, length) for offset, length in each["ranges"]),
        )
        for name, each in value["arrays"].items()
    }
    return Commit(
        unit=Unit.from_id(value["unit"]),
        generation=value["generation"],
        attempt=value["attempt"],
        num_rows=value["rows"],
        members_digest=value["members"],
        objects={name: (each["bytes"], each["crc32c"]) for name, each in value["objects"].items()},
        arrays=arrays,
        statistics=value.get("statistics"),
        footers={name: (each["bytes"], each["crc32c"]) for name, each in value.get("footers", {}).items()},
    )


def _checked_record(data: bytes) -> dict[str, Any]:
    record = _known_format(json.loads(data))
    stored = record.pop("crc32c")
    actual = crc32c(canonical_json(record))
    if stored != actual:
        raise ValueError(f"crc32c is {actual}, stored {stored}")
    if "statistics" not in record:
        raise ValueError("it has no statistics")
    return record


def _known_format(record: dict[str, Any]) -> dict[str, Any]:
    if record["format"] != FORMAT_VERSION:
        raise ValueError(f"format {record['format']}, this version reads {FORMAT_VERSION}")
    return record


def parse_commit_name(name: str) -> tuple[Unit, int]:
    """Unit and generation of a commit record, from its name with or without folders.

    Raises:
        ValueError: it is the name of something else.
    """
    unit_id, generation = name.rsplit("/", 1)[-1].removesuffix(".json").rsplit(".", 1)
    if int(generation) >= 0 and name.endswith(f".{int(generation)}.json"):
        return Unit.from_id(unit_id), int(generation)
    raise ValueError(f"{name!r} does not end in a generation")
