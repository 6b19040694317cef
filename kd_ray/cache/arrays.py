"""One unit's arrays as the objects of an immutable Zarr v3 group, and where each view's bytes lie in them.

An array [view, sample, …] is one Zarr shard whose inner chunks are one view each, bytes + crc32c, no compressor: one
view of a unit is one contiguous range that checks itself, and any Zarr reader opens the group.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from kd_ray.errors import CacheCorrupt
from kd_ray.storage import buffers
from kd_ray.storage.base import Bytes, Data
from kd_ray.storage.checksum import crc32c

CRC_BYTES, INDEX_BYTES = 4, 16
PART_BYTES = 1 << 19
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLayout:
    """Where the views of one array lie: the object, and [offset, length] of each view, checksum included."""

    object_name: str
    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]


def encode_group(arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> dict[str, Data]:
    """The objects of a Zarr group holding `arrays`, each [view, sample, …], by their names inside the group."""
    encoded: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(encoded), attributes=dict(attributes), overwrite=True)
    for name, values in arrays.items():
        group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            shards=values.shape,
            chunks=(1, *values.shape[1:]),
            compressors=(Crc32cCodec(),),
            serializer=BytesCodec(endian="little"),
            fill_value=np.nan if values.dtype.kind == "f" else 0,
            dimension_names=("view", "sample", *(f"axis_{i}" for i in range(values.ndim - 2))),
            config={"write_empty_chunks": True},
        )
    objects: dict[str, Data] = {name: buffer.to_bytes() for name, buffer in encoded.items()}
    objects |= {_object_name(name, values): _shard(values) for name, values in arrays.items()}
    return dict(sorted(objects.items()))


def _shard(values: Array) -> Bytes:
    """As Zarr writes it, three times as fast: every view with its checksum, then their places, with that of these."""
    num_views, num_bytes = len(values), values[0].nbytes
    shard = buffers.shared.take(num_views * (num_bytes + CRC_BYTES) + num_views * INDEX_BYTES + CRC_BYTES)
    for (offset, length), view in zip(_ranges(values), np.ascontiguousarray(values), strict=True):
        _put_with_checksum(shard[offset : offset + length], view.reshape(-1).view(np.uint8))
    index = np.array(_ranges(values), dtype="<u8").reshape(-1).view(np.uint8)
    _put_with_checksum(shard[-len(index) - CRC_BYTES :], index)
    return shard


def _put_with_checksum(place: Bytes, data: Bytes) -> None:
    crc = 0
    for start in range(0, len(data), PART_BYTES):  # of which the checksum is made while it is in the caches
        part = place[start : min(start + PART_BYTES, len(data))]
        part[...] = data[start : start + PART_BYTES]
        crc = crc32c(part, crc)
    place[len(data) :] = np.frombuffer(crc.to_bytes(CRC_BYTES, "little"), dtype=np.uint8)


def _ranges(values: Array) -> tuple[tuple[int, int], ...]:
    length = values[0].nbytes + CRC_BYTES
    return tuple((view * length, length) for view in range(len(values)))


def _object_name(name: str, values: Array) -> str:
    return f"{name}/c/" + "/".join("0" for _ in values.shape)


def layout_of(name: str, values: Array) -> ArrayLayout:
    """The layout of the array `name` in the group that `encode_group` makes."""
    return ArrayLayout(
        object_name=_object_name(name, values), dtype=values.dtype.str, shape=values.shape, ranges=_ranges(values)
    )


def ranges_of(data: bytes, num_views: int) -> tuple[tuple[int, int], ...]:
    """The ranges that the index at the end of a shard gives; none where the shard is too short to have it."""
    if len(data) < INDEX_BYTES * num_views + CRC_BYTES:
        return ()
    index = struct.unpack(f"<{2 * num_views}Q", data[-(INDEX_BYTES * num_views + CRC_BYTES) : -CRC_BYTES])
    return tuple((index[2 * i], index[2 * i + 1]) for i in range(num_views))


class ViewBytes:
    """The checksum of one view of an array as far as its bytes have come; `location` is for messages."""

    def __init__(self, layout: ArrayLayout, *, location: str) -> None:
        self._layout = layout
        self._location = location
        self._dtype = np.dtype(layout.dtype)
        self._num_bytes = int(np.prod(layout.shape[1:], dtype=np.int64)) * self._dtype.itemsize
        self._count = 0
        self._crc = 0

    def see(self, part: Bytes) -> None:
        """The next bytes are there."""
        self._crc = crc32c(part[: max(self._num_bytes - self._count, 0)], self._crc)
        self._count += len(part)

    def decode(self, data: Bytes) -> Array:
        """The array [sample, …], a view of the bytes, all of which have been seen.

        Raises:
            CacheCorrupt: they are too few, or do not match the checksum that follows them.
        """
        expected = self._num_bytes + CRC_BYTES
        if self._count != expected or len(data) != expected:
            raise CacheCorrupt(
                f"{self._location}: got {self._count} bytes for one view, expected {expected}; the object is truncated "
                "or not the one that was committed. Run kd-ray cache repair with this recipe."
            )
        stored = int.from_bytes(data[self._num_bytes :].tobytes(), "little")
        if stored != self._crc:
            raise CacheCorrupt(
                f"{self._location}: crc32c is {self._crc:08x}, stored {stored:08x}; the bytes have changed since they "
                "were written. Run kd-ray cache repair with this recipe."
            )
        return data[: self._num_bytes].view(self._dtype).reshape(self._layout.shape[1:])


def decode_view(data: Bytes, layout: ArrayLayout, *, location: str) -> Array:
    """The array [sample, …] of one view in its bytes, of which it is a view; raises what `ViewBytes.decode` does."""
    view = ViewBytes(layout, location=location)
    view.see(data)
    return view.decode(data)
