"""The table of what a packing left out."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.corpus.packing.findings import ACCEPTED, REASONS, Findings
from kd_ray.corpus.packing.plan import Verdict
from kd_ray.storage import Storage

SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string()), ("bytes", pa.int64())])


def quarantine_object(listing_digest: str) -> str:
    """The object of the table of one packing."""
    return f"quarantine/{listing_digest[:16]}.parquet"


def write_quarantine(
    storage: Storage, findings: Findings, verdict: Verdict, *, listing_digest: str, sources: Sequence[str]
) -> None:
    """Write the table, sorted by location; nothing where there are no rows.

    In a mixture a location begins with the name of its source.
    """
    rows = np.flatnonzero(verdict.reason != ACCEPTED)
    if not len(rows):
        return
    columns = {
        "source": pa.array(
            [f"{sources[findings.source[row]]}:{findings.where(row)}".removeprefix(":") for row in rows.tolist()],
            pa.string(),
        ),
        "reason": pa.array([REASONS[index] for index in verdict.reason[rows].tolist()], pa.string()),
        "bytes": pa.array(findings.size_bytes[rows]),
    }
    table = pa.table(columns, schema=SCHEMA).sort_by([("source", "ascending"), ("reason", "ascending")])
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    storage.write(quarantine_object(listing_digest), buffer.getvalue())
