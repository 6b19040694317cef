"""What is stored of a view beside targets: bytes by column, for policies of few and of many operations.

    python -m tests.benchmarks.view_bytes

1,024 samples of 375 x 500 px, 4 views each, as one unit; digests and thumbnails are random bytes, which do not
compress. Beside it, what params would take at the strongest level of zstd, and what that costs. Also written to
out/bench as JSON.
"""

import io
import json
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from kd_ray.config.views import Policy
from kd_ray.views import Proof, ViewRow, encode_views
from kd_ray.views.digest import DIGEST_BYTES, THUMBNAIL_BYTES
from kd_ray.views.draw import draw_mixed
from tests.benchmarks.cache_reading import OUT

POLICIES = ("weak", "patient", "lightly", "paper_resnet")
NUM_SAMPLES, NUM_VIEWS, ROW_GROUP_SIZE = 1024, 4, 64
IMAGE_SIZE_PX = (375, 500)
STRONGEST = 19


def main() -> None:
    """Measure, print a table, write JSON."""
    OUT.mkdir(parents=True, exist_ok=True)
    values = {name: measured(Policy.model_validate(name)) for name in POLICIES}
    table = Table(title="bytes a view")
    columns = list(next(iter(values.values())))
    for column in ("policy", *columns):
        table.add_column(column, justify="right")
    for name, row in values.items():
        table.add_row(name, *(f"{row[column]:.1f}" for column in columns))
    Console(width=120).print(table)
    (OUT / "view_bytes.json").write_text(json.dumps(values, indent=1))


def measured(policy: Policy) -> dict[str, float]:
    """Bytes of each column, and of params packed harder."""
    rows = _rows(policy)
    group = pq.ParquetFile(pa.BufferReader(encode_views(rows))).metadata.row_group(0)
    found = {
        group.column(index).path_in_schema: group.column(index).total_compressed_size / len(rows)
        for index in range(group.num_columns)
    }
    params = pq.read_table(pa.BufferReader(encode_views(rows)), columns=["params"])
    sink, started_s = io.BytesIO(), time.process_time()
    pq.write_table(params, sink, compression="zstd", compression_level=STRONGEST, use_dictionary=False)
    microseconds = (time.process_time() - started_s) / len(rows) * 1e6
    packed = pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata.row_group(0).column(0)
    return {**found, "params, harder": packed.total_compressed_size / len(rows), "at CPU µs": microseconds}


def _rows(policy: Policy) -> list[ViewRow]:
    random = np.random.default_rng(0)
    ids: Sequence[int] = random.integers(0, 1 << 63, NUM_SAMPLES).tolist()
    return [
        ViewRow(
            sample_id=sample_id,
            view_index=view_index,
            params=draw_mixed(
                policy,
                seed=0,
                view_index=view_index,
                place=number % ROW_GROUP_SIZE,
                members=ids[number // ROW_GROUP_SIZE * ROW_GROUP_SIZE :][:ROW_GROUP_SIZE],
                image_size_px=lambda _: IMAGE_SIZE_PX,
            ),
            proof=Proof(digest=random.bytes(DIGEST_BYTES), thumbnail=random.bytes(THUMBNAIL_BYTES)),
        )
        for view_index in range(NUM_VIEWS)
        for number, sample_id in enumerate(ids)
    ]


if __name__ == "__main__":
    main()
