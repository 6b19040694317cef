"""TensorBoard's event files: records of protocol buffers, each with its length and two masked CRC-32C.

As in TensorFlow's tsl/lib/io/record_writer.cc. tensorboardX has the messages; its own writer hands them to a thread and
does not tell when they are on disk.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_ray.storage import Storage, is_remote, open_storage
from kd_ray.storage.checksum import crc32c

FILE_VERSION = "brain.Event:2"
MASK_DELTA = 0xA282EAD8


class EventFile:
    """A new file in the folder `uri`, whole on storage after every call; on an object store it is written anew."""

    def __init__(self, uri: str, *, first_step: int) -> None:
        """What earlier files of the folder have from `first_step` on is shown no more, unless it is 0."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event: Any = Event
        self._name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._storage: Storage | None = open_storage(uri) if is_remote(uri) else None
        self._path = Path(uri.removeprefix("file://")) / self._name
        self._written = b""
        records = [Event(wall_time=time.time(), file_version=FILE_VERSION)]
        if first_step:
            mark = SessionLog(status=SessionLog.START)
            records.append(Event(wall_time=time.time(), step=first_step, session_log=mark))
        self._append(b"".join(_record(each.SerializeToString()) for each in records))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers by name."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        event = self._event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._append(_record(event.SerializeToString()))

    def _append(self, data: bytes) -> None:
        if self._storage is not None:
            self._written += data
            self._storage.write(self._name, self._written)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(data)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF)
