"""The bytes of one shard."""

import hashlib
import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.corpus.format import SHARD_SCHEMA, Commit, sample_id_of
from kd_ray.corpus.plan import Finding, PlannedShard

FOOTER_TAIL_BYTES = 8  # four bytes of footer length, then PAR1


def encode_shard(
    shard: PlannedShard, images: Mapping[str, bytes], *, row_group_size: int, listing_digest: str
) -> tuple[bytes, Commit]:
    """The Parquet file of `shard` and its commit; equal samples give equal bytes under one version of Arrow."""
    buffer = io.BytesIO()
    groups = [shard.samples[i : i + row_group_size] for i in range(0, len(shard.samples), row_group_size)]
    with pq.ParquetWriter(
        buffer,
        SHARD_SCHEMA,
        compression="none",  # JPEG and PNG do not shrink
        use_dictionary=False,
        write_statistics=False,  # the least and greatest image would be copied into the footer
        write_page_checksum=True,
    ) as writer:
        for group in groups:
            writer.write_table(_table(group, images), row_group_size=row_group_size)
    data = buffer.getvalue()
    commit = Commit(
        shard=shard.name,
        split=shard.split,
        rows_per_group=tuple(len(group) for group in groups),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        footer_sha256=hashlib.sha256(data[-footer_length(data) :]).hexdigest(),
        listing_digest=listing_digest,
    )
    return data, commit


def footer_length(tail: bytes) -> int:
    """Bytes of the Parquet footer, with its length and magic, from the last bytes of a file."""
    return int.from_bytes(tail[-FOOTER_TAIL_BYTES:-4], "little") + FOOTER_TAIL_BYTES


def _table(group: tuple[Finding, ...], images: Mapping[str, bytes]) -> pa.Table:
    sizes = [(0, 0) if sample.size_px is None else sample.size_px for sample in group]
    columns = {
        "sample_id": [sample_id_of(sample.sha256) for sample in group],
        "sha256": [sample.sha256 for sample in group],
        "image": [images[sample.location] for sample in group],
        "label": [sample.label for sample in group],
        "height": [height for height, _ in sizes],
        "width": [width for _, width in sizes],
        "source": [sample.location for sample in group],
    }
    return pa.table(columns, schema=SHARD_SCHEMA)
