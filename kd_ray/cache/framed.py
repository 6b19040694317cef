"""A record and arrays in one object: a line of canonical JSON, then the arrays, all of it under checksums.

The record has `arrays`, a list of [name, dtype, shape] in the order in which they follow the line in C order, and
`arrays_crc32c`, of all their bytes; `crc32c` is that of the canonical JSON of the record without it.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.errors import CacheCorrupt
from kd_ray.storage import Storage
from kd_ray.storage.base import canonical_json
from kd_ray.storage.checksum import crc32c

Arrays = Mapping[str, NDArray[Any]]

FIRST_READ_BYTES = 1 << 16


def encode_framed(record: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The object; arrays are stored little-endian, sorted by name."""
    packed = {name: np.ascontiguousarray(arrays[name].astype(arrays[name].dtype.newbyteorder("<"))) for name in arrays}
    body = b"".join(packed[name].tobytes() for name in sorted(packed))
    described = [[name, packed[name].dtype.str, list(packed[name].shape)] for name in sorted(packed)]
    whole = {**record, "arrays": described, "arrays_crc32c": crc32c(body)}
    return canonical_json({**whole, "crc32c": crc32c(canonical_json(whole))}) + b"\n" + body


def decode_framed(data: bytes, *, location: str, advice: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Record and arrays.

    Raises:
        CacheCorrupt: it is something else, or has changed since; `advice` says what to do.
    """
    line, _, body = data.partition(b"\n")
    record = _decode_line(line, location=location, advice=advice)
    layouts = [(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in record["arrays"]]
    expected = sum(dtype.itemsize * prod(shape) for _, dtype, shape in layouts)
    if len(body) != expected:
        raise CacheCorrupt(f"{location}: holds {len(body)} bytes of arrays, expected {expected}. {advice}")
    actual = crc32c(body)
    if actual != record["arrays_crc32c"]:
        raise CacheCorrupt(f"{location}: crc32c is {actual}, stored {record['arrays_crc32c']}. {advice}")
    arrays, offset = {}, 0
    for name, dtype, shape in layouts:
        arrays[name] = np.frombuffer(body, dtype, prod(shape), offset).reshape(shape)
        offset += arrays[name].nbytes
    return record, arrays


def read_record(storage: Storage, name: str, *, advice: str) -> dict[str, Any]:
    """The record alone, without the arrays; raises what `decode_framed` does."""
    length = FIRST_READ_BYTES
    while True:
        data = storage.read_range(name, offset=0, length=length)
        line, newline, _ = data.partition(b"\n")
        if newline or len(data) < length:
            return _decode_line(line, location=f"{storage.uri}/{name}", advice=advice)
        length *= 8


def _decode_line(line: bytes, *, location: str, advice: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
        is_canonical = canonical_json(record) == line  # other digits of a number may still read as the same number
        stored = record.pop("crc32c")
        actual = crc32c(canonical_json(record))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheCorrupt(f"{location}: does not begin with a readable record: {error}. {advice}") from error
    if actual != stored or not is_canonical:
        raise CacheCorrupt(f"{location}: crc32c of its record is {actual}, stored {stored}. {advice}")
    return record
