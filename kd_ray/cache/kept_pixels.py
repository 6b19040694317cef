"""The kept pixels of one unit as Parquet: a row group a view, so that a view of the unit is one contiguous range."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.cache.units import Unit
from kd_ray.corpus.format import FOOTER_TAIL_BYTES, footer_length
from kd_ray.errors import CacheCorrupt
from kd_ray.storage.checksum import crc32c
from kd_ray.storage.range_file import RangeFile

HOW_TO_REPAIR = "Run kd-ray cache repair with this recipe."

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.uint64(), nullable=False),
        pa.field("view_index", pa.int32(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),  # of pixels: page checksums leave the pages' headers out
        pa.field("pixels", pa.binary(), nullable=False),
    ]
)


def encode_kept(unit: Unit, sample_ids: NDArray[np.uint64], pixels: Sequence[bytes]) -> bytes:
    """Parquet with page checksums, not compressed again; `pixels` are view by view, in the order of the samples."""
    num_rows = len(sample_ids)
    assert len(pixels) == unit.num_views * num_rows, (len(pixels), unit, num_rows)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, SCHEMA, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True
    ) as writer:
        for place, view_index in enumerate(range(unit.view_start, unit.view_stop)):
            of_view = pixels[place * num_rows : (place + 1) * num_rows]
            columns = {
                "sample_id": sample_ids,
                "view_index": np.full(num_rows, view_index, np.int32),
                "crc32c": [crc32c(each) for each in of_view],
                "pixels": of_view,
            }
            writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=max(num_rows, 1))
    return sink.getvalue()


def footer_of(data: bytes) -> tuple[int, int]:
    """Bytes and crc32c of the Parquet footer, which no checksum inside the file covers."""
    size = footer_length(data[-FOOTER_TAIL_BYTES:])
    return size, crc32c(data[-size:])


def read_footer(file: RangeFile, committed: tuple[int, int], *, location: str) -> Any:
    """What Parquet says of the file, to be given to `read_kept` as often as the file is read.

    Raises:
        CacheCorrupt: it is not the committed one.
    """
    size, crc = committed
    file.seek(file.size_bytes - size)
    data = file.read()
    if (len(data), crc32c(data)) != (size, crc):
        raise damaged(location, "the Parquet footer differs from the committed one")
    return pq.read_metadata(io.BytesIO(data))


def read_kept(
    file: RangeFile, footer: Any, unit: Unit, *, view_index: int, sample_ids: NDArray[np.uint64], location: str
) -> list[bytes]:
    """The stored pixels of one view, in the order of `sample_ids`, checked; no other view is read.

    Raises:
        CacheCorrupt: a page or a row fails its checksum, or these are not the views of those samples.
    """
    place = view_index - unit.view_start
    with pq.ParquetFile(file, metadata=footer, page_checksum_verification=True, pre_buffer=True) as parquet:
        if parquet.num_row_groups != unit.num_views or not parquet.schema_arrow.equals(SCHEMA):
            raise damaged(location, f"{parquet.num_row_groups} views with columns {parquet.schema_arrow.names}")
        table = parquet.read_row_group(place, use_threads=False)
    found = table.column("sample_id").to_numpy()
    if not np.array_equal(found, sample_ids) or not (table.column("view_index").to_numpy() == view_index).all():
        raise damaged(location, f"view {view_index} is of other samples or another view than the unit has there")
    pixels: list[bytes] = table.column("pixels").to_pylist()
    for sample_id, data, crc in zip(found.tolist(), pixels, table.column("crc32c").to_pylist(), strict=True):
        if crc32c(data) != crc:
            raise damaged(location, f"the pixels of sample {sample_id:016x}, view {view_index}, fail their checksum")
    return pixels


def kept_sample_ids(file: RangeFile, footer: Any) -> NDArray[np.uint64]:
    """The samples of the first view, in their order, as the file tells; nothing else of it is read."""
    with pq.ParquetFile(file, metadata=footer, page_checksum_verification=True) as parquet:
        sample_ids: NDArray[np.uint64] = parquet.read_row_group(0, columns=["sample_id"])["sample_id"].to_numpy()
    return sample_ids


def damaged(location: str, what: str) -> CacheCorrupt:
    """The error for an object of kept pixels that cannot be read as it was committed."""
    return CacheCorrupt(f"{location}: damaged: {what.rstrip('.')}. {HOW_TO_REPAIR}")
