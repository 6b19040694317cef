"""The views of one unit as Parquet: which view, its params, and the proof of its pixels."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kd_ray.errors import CacheCorrupt
from kd_ray.views.digest import DIGEST_BYTES, THUMBNAIL_BYTES, Proof
from kd_ray.views.params import ViewParams, params_from_json, params_to_json

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.uint64(), nullable=False),
        pa.field("view_index", pa.int32(), nullable=False),
        pa.field("params", pa.string(), nullable=False),
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("thumbnail", pa.binary(THUMBNAIL_BYTES)),
    ]
)
WITHOUT_THUMBNAILS = pa.schema(list(SCHEMA)[:-1])  # as the first release wrote them


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRow:
    """One view as stored."""

    sample_id: int
    view_index: int
    params: ViewParams
    proof: Proof


def encode_views(rows: Sequence[ViewRow]) -> bytes:
    """Parquet with page checksums; the same rows give the same bytes under one version of pyarrow."""
    columns = {
        "sample_id": [row.sample_id for row in rows],
        "view_index": [row.view_index for row in rows],
        "params": [params_to_json(row.params) for row in rows],
        "digest": [row.proof.digest for row in rows],
        "thumbnail": [row.proof.thumbnail for row in rows],
    }
    sink = io.BytesIO()
    # one row group, no dictionaries: nothing that depends on more than the rows
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        sink,
        compression="zstd",
        use_dictionary=False,
        row_group_size=max(1, len(rows)),
        write_page_checksum=True,
    )
    return sink.getvalue()


def decode_views(data: bytes, *, view_index: int | None = None) -> list[ViewRow]:
    """The rows that `encode_views` wrote, in their order; those of one view where that is asked.

    Raises:
        CacheCorrupt: a page fails its checksum, or the bytes are not such a table.
    """
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise CacheCorrupt(f"table of views: {error}. Restore it, or delete its unit and run again.") from error
    if table.schema == WITHOUT_THUMBNAILS:
        table = table.append_column(SCHEMA.field("thumbnail"), pa.nulls(len(table), pa.binary(THUMBNAIL_BYTES)))
    if table.schema != SCHEMA:
        raise CacheCorrupt(
            f"table of views: got columns {_describe(table.schema)}, expected {_describe(SCHEMA)}. "
            "Restore it, or delete its unit and run again."
        )
    if view_index is not None:
        table = table.filter(pc.equal(table.column("view_index"), view_index))
    columns = (table.column(name).to_pylist() for name in SCHEMA.names)
    return [
        ViewRow(
            sample_id=sample_id,
            view_index=view_index,
            params=params_from_json(params),
            proof=Proof(digest=digest, thumbnail=thumbnail),
        )
        for sample_id, view_index, params, digest, thumbnail in zip(*columns, strict=True)
    ]


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
