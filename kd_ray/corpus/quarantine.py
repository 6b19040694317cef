"""The table of what a packing left out."""

import io
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.corpus.plan import Quarantined
from kd_ray.storage import Storage

SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string()), ("bytes", pa.int64())])


def quarantine_object(listing_digest: str) -> str:
    """The object of the table of one packing."""
    return f"quarantine/{listing_digest[:16]}.parquet"


def write_quarantine(storage: Storage, rows: Sequence[Quarantined], *, listing_digest: str) -> None:
    """Write the table; nothing where there are no rows."""
    if not rows:
        return
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    pq.write_table(table, buffer, write_page_checksum=True)
    storage.write(quarantine_object(listing_digest), buffer.getvalue())


def read_quarantine(storage: Storage, *, listing_digest: str) -> list[Quarantined]:
    """The rows of the table of one packing; [] where it left nothing out."""
    try:
        data = storage.read(quarantine_object(listing_digest))
    except FileNotFoundError:
        return []
    rows = pq.read_table(io.BytesIO(data), page_checksum_verification=True).to_pylist()
    return [Quarantined(**row) for row in rows]
