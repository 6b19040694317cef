"""Storage on any fsspec URL; conditional create is the server's own (`If-None-Match: *`), which S3 offers."""

import errno
import io
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, BinaryIO

import fsspec
import numpy as np
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    FlexibleChecksumError,
    IncompleteReadError,
)

from kd_ray.errors import StorageError
from kd_ray.storage import buffers
from kd_ray.storage.base import Bytes, Data, Names, Stored, join
from kd_ray.storage.redact import redacted, redacted_text

S3_PROTOCOLS = frozenset({"s3", "s3a"})
TIME_KEYS = ("LastModified", "last_modified", "mtime", "created")  # of S3, Azure, GCS and memory
CONFLICT_PAUSES_S = (0.05, 0.2, 0.8, 2.0)
READ_PAUSES_S = (0.1, 0.4, 1.6)


@dataclass(frozen=True)
class FsspecStorage:
    """A `Storage` below `uri`; credentials and endpoint come from the usual environment of the protocol's client."""

    uri: str

    def __reduce__(self) -> tuple[type["FsspecStorage"], tuple[str]]:
        return FsspecStorage, (self.uri,)  # another process connects by itself

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            fs, root = fsspec.core.url_to_fs(self.uri, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{redacted(self.uri)}: cannot be reached: {redacted_text(str(error))}. Correct the scheme, or install "
                "what it needs."
            ) from error
        return fs, str(root).rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @property
    def _protocol(self) -> str:
        return self.uri.split("://", 1)[0]

    @property
    def _is_s3(self) -> bool:
        return self._protocol in S3_PROTOCOLS

    def _path(self, name: str) -> str:
        return join(self._root, name) if name else self._root

    def read(self, name: str) -> bytes:
        with self._named(name, "read"):
            return _until_whole(lambda: self._whole(self._path(name)))

    def _whole(self, path: str) -> bytes:
        size = self._fs.size(path)
        # one stream: s3fs would ask for the size once more, and fill what is short of a part with zeros
        one_stream = {"max_concurrency": 1} if self._is_s3 else {}
        return _of_size(self._fs.cat_file(path, **one_stream), size)

    def read_range(self, name: str, *, offset: int, length: int) -> bytes:
        with self._named(name, "read"):
            return _until_whole(lambda: self._range(self._path(name), offset, length))

    def _range(self, path: str, offset: int, length: int) -> bytes:
        try:
            data = bytes(self._fs.cat_file(path, start=offset, end=offset + length))
        except OSError as error:
            # S3 refuses a range that begins at or after the end (416), where a file gives nothing
            if error.errno == errno.EINVAL and offset >= self._fs.size(path):
                return b""
            raise
        if len(data) == length:
            return data
        return _of_size(data, min(max(self._fs.size(path) - offset, 0), length))

    @cached_property
    def _ranges(self) -> Any:
        from kd_ray.storage.s3_ranges import S3Ranges  # needs s3fs, which reads these protocols alone

        return S3Ranges(self._fs)

    def load_range(self, name: str, *, offset: int, length: int, seen: Callable[[Bytes], None]) -> Bytes:
        if self._is_s3 and length:
            buffer = buffers.shared.take(length)
            with self._named(name, "read"):
                return buffer[: self._ranges.read_into(self._path(name), buffer, offset=offset, seen=seen)]
        data = np.frombuffer(self.read_range(name, offset=offset, length=length), dtype=np.uint8)
        seen(data)
        return data

    def exists(self, name: str) -> bool:
        with self._named(name, "read"):
            try:  # not isfile, which says no to whatever goes wrong
                return bool(self._fs.info(self._path(name))["type"] == "file")
            except FileNotFoundError:
                return False

    def size_bytes(self, name: str) -> int:
        with self._named(name, "read"):
            return int(self._fs.size(self._path(name)))

    def list(self, prefix: str) -> Names:
        with self._named(prefix, "list"):
            found = self._fs.find(self._path(prefix))
        # an object of that very name is not below it
        return sorted(path[len(self._root) + 1 :] for path in found if path != self._path(prefix))

    def inventory(self, prefix: str) -> dict[str, Stored]:
        with self._named(prefix, "list"):
            found = self._fs.find(self._path(prefix), detail=True)
        return {
            path[len(self._root) + 1 :]: Stored(int(entry["size"]), self._modified_s(path, entry))
            for path, entry in sorted(found.items())
            if path != self._path(prefix)
        }

    def _modified_s(self, path: str, entry: dict[str, Any]) -> float:
        for key in TIME_KEYS:
            match entry.get(key):
                case datetime() as time_written:
                    return time_written.timestamp()
                case float() as seconds:
                    return seconds
        raise StorageError(f"{redacted(path)}: its storage does not tell when it was written, which is needed here.")

    def folders(self, prefix: str) -> Names:
        with self._named(prefix, "list"):
            try:
                entries = self._fs.ls(self._path(prefix), detail=True)
            except FileNotFoundError:
                return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")

    def write(self, name: str, data: Data) -> None:
        with self._named(name, "write"):
            self._fs.pipe_file(self._path(name), data if isinstance(data, bytes) else data.tobytes())

    def write_from(self, name: str, produce: Callable[[BinaryIO], None]) -> None:
        buffer = io.BytesIO()
        produce(buffer)
        self.write(name, buffer.getvalue())

    def create(self, name: str, data: bytes) -> bool:
        if not self._is_s3:
            raise StorageError(
                f"{redacted(self.uri)}: {self._protocol} has no conditional create; write to a local path or to s3://."
            )
        with self._named(name, "write"):
            for pause_s in CONFLICT_PAUSES_S:
                try:
                    return self._create_once(name, data)
                except OSError as error:
                    if _error_code(error) != "ConditionalRequestConflict":
                        raise
                    time.sleep(pause_s)  # AWS: another conditional write is under way and decides nothing for this one
            return self._create_once(name, data)

    def _create_once(self, name: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # Ceph's gateway answers the lost race with EINVAL instead of a 412; the object's presence tells.
            if error.errno == errno.EINVAL and self.exists(name):
                return False
            raise
        return True

    def remove(self, prefix: str) -> None:
        with self._named(prefix, "remove"):
            # one by one: rm itself would read *, ? and [ in the location as patterns
            for name in [*self.list(prefix), *([prefix] if self.exists(prefix) else [])]:
                try:
                    self._fs.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    @contextmanager
    def _named(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except _failures() as error:
            shown = redacted_text(_said(error))
            # the cause goes into tracebacks with its own words
            cause = error if redacted_text(str(error)) == str(error) else None
            if verb == "read" and isinstance(error, FileNotFoundError):
                if cause is error:
                    raise
                raise FileNotFoundError(shown) from None
            raise StorageError(f"{join(redacted(self.uri), name)}: cannot {verb}: {shown}.") from cause


class _CutShort(OSError):
    """Fewer or more bytes have come than the object has."""


def _of_size(data: bytes, size: int | None) -> bytes:
    """`data`, where it is as long as the server says elsewhere; not every server knows sizes."""
    if size is not None and len(data) != size:
        raise _CutShort(f"got {len(data)} bytes, expected {size}; the connection or a proxy cuts answers short")
    return bytes(data)


def _until_whole(read: Callable[[], bytes]) -> bytes:
    """What `read` gives, asked again where the answer was not whole: the clients see to all other errors."""
    for pause_s in READ_PAUSES_S:
        try:
            return read()
        except (_CutShort, FlexibleChecksumError, IncompleteReadError):
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # apart from the other workers
    return read()


def _failures() -> tuple[type[Exception], ...]:
    """What reading and writing may end in."""
    import aiohttp  # half a second, and loaded already where it could have raised anything

    return (OSError, BotoCoreError, aiohttp.ClientError)  # BotoCoreError: no credentials, no such host


def _said(error: Exception) -> str:
    """The error's message, or the server's word for it: Ceph's gateway sends no messages, which come as "None"."""
    message = str(error)
    return message if message not in ("", "None") else _error_code(error) or type(error).__name__


def _error_code(error: Exception) -> str:
    """The server's own word for what went wrong, "" where it gave none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
