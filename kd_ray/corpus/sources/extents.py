"""Extents of files: runs of a listing in a form that costs the driver some 30 bytes a file."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from kd_ray.corpus.source import Entry, Extent, Reason, Rejected, SplitName
from kd_ray.corpus.sources.files import in_batches
from kd_ray.storage.base import canonical_json

FILES_PER_EXTENT = 2_048

SCHEMA = pa.schema(
    [
        pa.field("location", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("reason", pa.dictionary(pa.int8(), pa.string())),
        pa.field("mask", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One input of an extent: a file, perhaps with its mask's location, or why it is rejected."""

    location: str
    size_bytes: int
    reason: Reason | None = None
    mask: str | None = None


def as_listed(found: Entry | Rejected) -> tuple[Listed, str]:
    """A file without a mask, and its version."""
    if isinstance(found, Rejected):
        return Listed(location=found.location, size_bytes=found.size_bytes, reason=found.reason), ""
    return Listed(location=found.location, size_bytes=found.size_bytes), found.version


def cut_extents(listed: Iterable[tuple[Listed, str]], *, split: SplitName | None) -> Iterator[Extent]:
    """Extents of at most FILES_PER_EXTENT of what is listed, each with its version."""
    for batch in in_batches(listed, FILES_PER_EXTENT):
        yield extent_of(batch, split=split)


def extent_of(listed: Sequence[tuple[Listed, str]], *, split: SplitName | None) -> Extent:
    """One extent of all that is listed, each with its version."""
    rows = [[each.location, each.size_bytes, each.reason, each.mask, version] for each, version in listed]
    return Extent(
        split=split,
        num_inputs=len(listed),
        num_bytes=sum(each.size_bytes for each, _ in listed),
        digest=hashlib.sha256(canonical_json(rows)).hexdigest(),
        payload=_packed([each for each, _ in listed]),
    )


def listed_in(extent: Extent) -> list[Listed]:
    """What an extent was cut from."""
    with pa.ipc.open_stream(extent.payload) as reader:
        return [Listed(**row) for row in reader.read_all().to_pylist()]


def _packed(listed: list[Listed]) -> bytes:
    columns = {name: [getattr(each, name) for each in listed] for name in SCHEMA.names}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(pa.table(columns, schema=SCHEMA))
    return bytes(sink.getvalue().to_pybytes())
