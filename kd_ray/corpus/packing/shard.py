"""Planned shards as files for the workers, and the bytes of a packed one."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.corpus.format import FOOTER_TAIL_BYTES, SHARD_SCHEMA, Commit, footer_length, sample_id_of, shard_object
from kd_ray.corpus.packing.findings import NO_NAME, Findings
from kd_ray.corpus.packing.plan import PlannedShard, Verdict
from kd_ray.corpus.source import SplitName
from kd_ray.corpus.sources.files import in_batches
from kd_ray.storage import Storage

ROW_SCHEMA = pa.schema(
    [
        pa.field("location", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("copies", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRow:
    """One sample of a planned shard; (height, width) are those of the source image, upright."""

    location: str
    locator: str
    sha256: bytes
    crc32c: int
    label: int | None
    copies: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """One sample as it is stored; corners and points are fractions."""

    planned: PlannedRow
    image: bytes
    mask: bytes | None
    boxes: list[dict[str, Any]] | None
    polygons: list[dict[str, Any]] | None
    caption: str | None
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef:
    """What a worker is told of a shard; its rows lie in a file of that name."""

    name: str
    source: str
    split: SplitName
    digest: str
    annotations: str

    @property
    def object(self) -> str:
        """Where the packed shard goes."""
        return shard_object(self.name, self.digest)


def encode_plan(shard: PlannedShard, findings: Findings, verdict: Verdict) -> bytes:
    """The planned rows of `shard` as a Parquet file."""
    rows = shard.rows
    labels = verdict.label[rows]
    columns = {
        "location": findings.location.array().take(pa.array(rows)).cast(pa.string()),
        "locator": findings.locator.array().take(pa.array(rows)).cast(pa.string()),
        "sha256": pa.array([findings.sha256[row].tobytes() for row in rows.tolist()], pa.binary(32)),
        "crc32c": findings.crc32c[rows],
        "label": pa.array(labels, mask=labels == NO_NAME),
        "copies": verdict.copies[rows],
        "height": findings.height[rows],
        "width": findings.width[rows],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=ROW_SCHEMA), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def decode_plan(data: bytes) -> list[PlannedRow]:
    """The inverse of `encode_plan`."""
    table = pq.read_table(io.BytesIO(data), schema=ROW_SCHEMA, page_checksum_verification=True)
    rows = (PlannedRow(**row) for row in table.to_pylist())
    return [row if row.locator else _located(row) for row in rows]


def _located(row: PlannedRow) -> PlannedRow:
    fields = {name: getattr(row, name) for name in PlannedRow.__dataclass_fields__}
    return PlannedRow(**{**fields, "locator": row.location})


def write_shard(
    storage: Storage, shard: ShardRef, rows: Iterable[PackedRow], *, row_group_size: int, listing_digest: str
) -> Commit:
    """Write the Parquet file of a shard, a row group as soon as its rows are there; `rows` is taken once.

    Equal samples give equal bytes under one version of Arrow.
    """
    rows_per_group: list[int] = []
    footers: list[tuple[int, bytes]] = []

    def produce(file: BinaryIO) -> None:
        # by its path Arrow writes without a detour through Python: a tenth of the time of packing
        with pa.OSFile(file.name, "wb") if isinstance(getattr(file, "name", None), str) else nullcontext(file) as sink:
            with pq.ParquetWriter(
                sink,
                SHARD_SCHEMA,
                compression="none",  # JPEG and PNG do not shrink
                use_dictionary=False,
                write_statistics=False,  # the least and greatest image would be copied into the footer
                write_page_checksum=True,
            ) as writer:
                for group in in_batches(rows, row_group_size):
                    writer.write_table(_table(group), row_group_size=row_group_size)
                    rows_per_group.append(len(group))
            size = sink.tell()
        footers.append((size, _footer(file, size)))

    storage.write_from(shard.object, produce)
    size, footer = footers[-1]
    return Commit(
        shard=shard.name,
        object=shard.object,
        source=shard.source,
        split=shard.split,
        rows_per_group=tuple(rows_per_group),
        annotations=shard.annotations,
        size_bytes=size,
        footer_sha256=hashlib.sha256(footer).hexdigest(),
        listing_digest=listing_digest,
    )


def _footer(file: BinaryIO, size: int) -> bytes:
    """The Parquet footer of a finished file of `size` bytes, with its length and magic."""
    if isinstance(file, io.BytesIO):
        data = file.getvalue()
        return data[-footer_length(data[-FOOTER_TAIL_BYTES:]) :]
    with pa.OSFile(file.name, "rb") as source:
        source.seek(size - FOOTER_TAIL_BYTES)
        length = footer_length(source.read(FOOTER_TAIL_BYTES))
        source.seek(size - length)
        return bytes(source.read(length))


def _table(group: Sequence[PackedRow]) -> pa.Table:
    columns: Mapping[str, list[Any]] = {
        "sample_id": [sample_id_of(row.planned.sha256) for row in group],
        "sha256": [row.planned.sha256 for row in group],
        "image": [row.image for row in group],
        "label": [row.planned.label for row in group],
        "mask": [row.mask for row in group],
        "boxes": [row.boxes for row in group],
        "polygons": [row.polygons for row in group],
        "caption": [row.caption for row in group],
        "height": [row.height for row in group],
        "width": [row.width for row in group],
        "copies": [row.planned.copies for row in group],
        "location": [row.planned.location for row in group],
    }
    return pa.table(columns, schema=SHARD_SCHEMA)
