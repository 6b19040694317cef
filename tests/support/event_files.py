"""TensorBoard's event files, read without TensorBoard."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from kd_ray.storage.checksum import crc32c


def events_of(path: Path) -> list[Event]:
    """The whole records of a file, their checksums compared; one that is being written is left out."""
    found, data = [], path.read_bytes()
    while len(data) >= 12:
        (length,), body = struct.unpack("<Q", data[:8]), data[12:]
        if len(body) < length + 4:
            break
        assert struct.unpack("<I", data[8:12])[0] == masked_crc(data[:8])
        record, (checksum,) = body[:length], struct.unpack("<I", body[length : length + 4])
        assert checksum == masked_crc(record)
        found.append(Event.FromString(record))
        data = body[length + 4 :]
    return found


def masked_crc(data: bytes) -> int:
    """CRC-32C turned by 15 bits and moved by a constant, as TensorFlow's records have it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
