"""The table of views: exact both ways, deterministic, and a flipped byte never passes."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.views import Policy
from kd_ray.errors import CacheCorrupt
from kd_ray.views import FlipParams, Proof, ViewRow, decode_views, draw, encode_views

any_rows = st.lists(
    st.builds(
        ViewRow,
        sample_id=st.integers(0, 2**64 - 1),
        view_index=st.integers(0, 2**31 - 1),
        params=st.tuples(st.builds(FlipParams, flipped=st.booleans())),
        proof=st.builds(
            Proof,
            digest=st.binary(min_size=16, max_size=16),
            thumbnail=st.none() | st.binary(min_size=192, max_size=192),
        ),
    ),
    max_size=20,
)


@pytest.fixture
def rows(strong_policy: Policy) -> list[ViewRow]:
    return [
        ViewRow(
            sample_id=sample_id,
            view_index=view_index,
            params=draw(strong_policy, seed=0, sample_id=sample_id, view_index=view_index, image_size_px=(60, 80)),
            proof=Proof(digest=bytes([view_index]) * 16, thumbnail=bytes(192)),
        )
        for sample_id in (1, 2**64 - 1, 5)
        for view_index in range(4)
    ]


@settings(deadline=None)
@given(any_rows)
def test_rows_come_back_in_their_order(rows: list[ViewRow]) -> None:
    assert decode_views(encode_views(rows)) == rows


def test_params_come_back_exactly(rows: list[ViewRow]) -> None:
    assert decode_views(encode_views(rows)) == rows


def test_the_same_rows_give_the_same_bytes(rows: list[ViewRow]) -> None:
    assert encode_views(decode_views(encode_views(rows))) == encode_views(rows)


@pytest.mark.parametrize("column", range(4))
def test_a_flipped_byte_in_any_column_is_found(rows: list[ViewRow], column: int) -> None:
    data = bytearray(encode_views(rows))
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(column)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    with pytest.raises(CacheCorrupt, match="table of views"):
        decode_views(bytes(data))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not a table at all"])
def test_what_is_not_parquet_is_refused(data: bytes) -> None:
    with pytest.raises(CacheCorrupt, match="table of views"):
        decode_views(data)


def test_a_truncated_table_is_refused(rows: list[ViewRow]) -> None:
    with pytest.raises(CacheCorrupt, match="table of views"):
        decode_views(encode_views(rows)[:-20])


def test_a_table_of_something_else_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"sample_id": [1]}), sink)
    with pytest.raises(CacheCorrupt, match="expected sample_id: uint64"):
        decode_views(sink.getvalue())
