"""Values as stored: exact both ways, open to any Zarr reader, and no changed byte is ever given out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from kd_ray.cache.arrays import encode_group, layout_of, ranges_of
from kd_ray.cache.commits import Commit
from kd_ray.cache.target_set import Output
from kd_ray.config.outputs import Codec
from kd_ray.errors import CacheCorrupt
from tests.support.tiny_cache import IDS, SHAPE, UNIT, new_output, unit, values_of


@pytest.fixture
def output(tmp_path: Path) -> Output:
    made = new_output(str(tmp_path))
    made.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    return made


@pytest.fixture
def commit(output: Output) -> Commit:
    return output.collection.commits()[UNIT]


@pytest.fixture
def values_path(output: Output, commit: Commit) -> Path:
    name = output.collection.object_name(commit, commit.arrays["values"].object_name)
    return Path(output.collection.storage.uri) / name


@pytest.mark.parametrize("codec", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 5)])
def test_every_view_is_read_as_it_was_written(tmp_path: Path, codec: Codec, shape: tuple[int, ...]) -> None:
    output = new_output(str(tmp_path), codec=codec, shape=shape)
    block = unit(4, 7)
    values_VND = values_of(block, shape=shape)
    assert output.write(block, values_VND, IDS, attempt="a0")
    commit = output.collection.commits()[block]
    for view in range(4, 7):
        found = output.read(commit, view_index=view, sample_ids=IDS)
        assert found.dtype == np.dtype(codec)
        np.testing.assert_array_equal(found, values_VND[view - 4])


def test_every_flipped_byte_inside_a_views_range_is_detected(output: Output, commit: Commit, values_path: Path) -> None:
    good = values_path.read_bytes()
    for view, (offset, length) in enumerate(commit.arrays["values"].ranges):
        for position in range(offset, offset + length):
            bad = bytearray(good)
            bad[position] ^= 0xFF
            values_path.write_bytes(bad)
            with pytest.raises(CacheCorrupt, match=f"{values_path}: crc32c"):
                output.read(commit, view_index=view, sample_ids=IDS)


def test_every_single_flipped_bit_of_a_view_is_detected(output: Output, commit: Commit, values_path: Path) -> None:
    good = values_path.read_bytes()
    offset, length = commit.arrays["values"].ranges[1]
    for bit in range(8 * length):
        bad = bytearray(good)
        bad[offset + bit // 8] ^= 1 << bit % 8
        values_path.write_bytes(bad)
        with pytest.raises(CacheCorrupt):
            output.read(commit, view_index=1, sample_ids=IDS)


def test_truncation_is_detected_at_every_length(output: Output, commit: Commit, values_path: Path) -> None:
    good = values_path.read_bytes()
    offset, length = max(commit.arrays["values"].ranges)
    last_view = commit.arrays["values"].ranges.index((offset, length))
    for kept in range(offset + length):
        values_path.write_bytes(good[:kept])
        with pytest.raises(CacheCorrupt, match="truncated"):
            output.read(commit, view_index=last_view, sample_ids=IDS)


def test_a_missing_object_of_a_committed_unit_is_corruption_never_zeros(
    output: Output, commit: Commit, values_path: Path
) -> None:
    values_path.unlink()
    with pytest.raises(CacheCorrupt, match=f"{values_path}: is missing, though its unit is committed"):
        output.read(commit, view_index=0, sample_ids=IDS)


@pytest.mark.parametrize("other", [IDS[::-1], IDS[:-1], IDS + np.uint64(1)], ids=["order", "fewer", "others"])
def test_values_of_other_samples_are_refused_and_the_unit_is_named(
    output: Output, commit: Commit, other: np.ndarray
) -> None:
    with pytest.raises(CacheCorrupt, match=f"unit {UNIT.id} was made from other samples"):
        output.read(commit, view_index=0, sample_ids=other)


def test_a_view_outside_the_unit_is_a_programmers_error(output: Output, commit: Commit) -> None:
    for view in (-1, 2):
        with pytest.raises(AssertionError):
            output.read(commit, view_index=view, sample_ids=IDS)


def test_values_of_another_shape_are_not_written(output: Output) -> None:
    with pytest.raises(AssertionError):
        output.write(unit(2, 4), values_of(unit(2, 5)), IDS, attempt="a0")


def test_plain_zarr_reads_the_same(output: Output, commit: Commit, values_path: Path) -> None:
    group = zarr.open_group(values_path.parents[4], mode="r")
    np.testing.assert_array_equal(group["values"][...], values_of(UNIT))
    np.testing.assert_array_equal(group["sample_id"][0], IDS)
    assert group["values"].metadata.dimension_names == ("view", "sample", "axis_0")
    assert dict(group.attrs) == {
        "target_set": output.target_set.fingerprint,
        "output": output.spec.fingerprint,
        "views": [0, 2],
    }


def test_zeros_are_stored_like_any_other_value(tmp_path: Path) -> None:
    output = new_output(str(tmp_path))
    output.write(UNIT, np.zeros_like(values_of(UNIT)), IDS, attempt="a0")
    commit = output.collection.commits()[UNIT]
    assert {length for _, length in commit.arrays["values"].ranges} == {len(IDS) * SHAPE[0] * 2 + 4}
    assert not output.read(commit, view_index=1, sample_ids=IDS).any()


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<u2", "|i1"])
@pytest.mark.parametrize("shape", [(1, 3, 2), (4, 5, 2, 2, 3), (2, 7)])
def test_a_group_has_the_very_bytes_that_zarr_would_write(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    own = {name: bytes(data) for name, data in encode_group({"values": values}, {"a": 1}).items()}
    store: dict[str, Any] = {name: default_buffer_prototype().buffer.from_bytes(data) for name, data in own.items()}
    of_data = store.pop(layout_of("values", values).object_name)
    array = zarr.open_array(MemoryStore(store), path="values", mode="r+", config={"write_empty_chunks": True})
    array[...] = values
    assert store[layout_of("values", values).object_name].to_bytes() == of_data.to_bytes()
    assert ranges_of(of_data.to_bytes(), shape[0]) == layout_of("values", values).ranges
