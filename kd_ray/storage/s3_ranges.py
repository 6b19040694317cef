"""Ranges of S3 objects, received by the thread that asks for them, into its own memory.

s3fs receives all answers in one thread and joins their pieces. The client here is made of the settings of s3fs's own.
"""

import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.session import Session  # type: ignore[import-untyped]
from s3fs.errors import translate_boto_error

from kd_ray.storage.base import Bytes

PART_BYTES = 1 << 20  # of a body at once
PAUSES_S = (0.1, 0.4, 1.6, 3.2)
PAST_THE_END = frozenset({"InvalidRange", "416"})
CONNECTIONS = 32
ASYNCHRONOUS_ONLY = frozenset({"connector_args", "http_session_cls"})  # of s3fs's own client


class CutShort(OSError):
    """Fewer or more bytes have come than the object has."""


class SlowDown(OSError):
    """The server wants fewer requests."""


BROKEN = (HTTPClientError, IncompleteReadError, CutShort, SlowDown)


class S3Ranges:
    """Reads with the credentials, endpoint and configuration of an `s3fs.S3FileSystem`; threads may share it."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._connected: tuple[int, Any] | None = None

    @property
    def _client(self) -> Any:
        """One for each process: connections do not survive a fork."""
        with self._lock:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = os.getpid(), self._connect()
            return self._connected[1]

    def _connect(self) -> Any:
        fs = self._fs
        own = {"aws_access_key_id": fs.key, "aws_secret_access_key": fs.secret, "aws_session_token": fs.token}
        settings = {"use_ssl": fs.use_ssl, "endpoint_url": fs.endpoint_url, **own, **fs.client_kwargs}
        config = {
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": fs.connect_timeout,
            "read_timeout": fs.read_timeout,
            "response_checksum_validation": "when_required",  # a view's checksum is checked by whoever reads it
            **{name: value for name, value in fs.config_kwargs.items() if name not in ASYNCHRONOUS_ONLY},
        }
        if fs.anon:
            settings = {name: value for name, value in settings.items() if name not in own}
            config["signature_version"] = UNSIGNED
        given = {name: value for name, value in settings.items() if value is not None}
        return Session(**fs.kwargs).create_client("s3", config=Config(**config), **given)

    def _get(self, path: str, first: int, last: int) -> Any:
        client = self._client
        bucket, key, _ = self._fs.split_path(path)
        known = client.meta.service_model.operation_model("GetObject").input_shape.members
        extra = {name: value for name, value in self._fs.s3_additional_kwargs.items() if name in known}
        return client.get_object(**extra, **self._fs.req_kw, Bucket=bucket, Key=key, Range=f"bytes={first}-{last}")

    def read_into(self, path: str, buffer: Bytes, *, offset: int, seen: Callable[[Bytes], None]) -> int:
        """Fill `buffer` from `offset`; how many bytes that were, fewer only where the object ends before.

        `path` is as s3fs has it, and `seen` that of `Storage.load_range`. What breaks off is asked for again from there
        on.

        Raises:
            OSError, BotoCoreError: as s3fs does.
        """
        done, failures = 0, 0
        while True:
            before = done
            try:
                for part in self._parts(path, buffer[done:], offset + done):
                    seen(part)
                    done += len(part)
            except BROKEN:
                failures = failures + 1 if done == before else 1
                if failures > len(PAUSES_S):
                    raise
                time.sleep(PAUSES_S[failures - 1] * random.uniform(0.5, 1.5))  # apart from the other workers
            else:
                return done

    def _parts(self, path: str, buffer: Bytes, offset: int) -> Iterator[Bytes]:
        """The parts of `buffer` one after another, filled; raises CutShort where the object has more than has come."""
        try:
            answer = self._get(path, offset, offset + len(buffer) - 1)
        except ClientError as error:
            if error.response["Error"].get("Code") in PAST_THE_END:
                return
            if error.response["Error"].get("Code") == "SlowDown":
                raise SlowDown(str(error)) from error
            raise translate_boto_error(error) from error
        done, length = 0, _length_of(answer, offset)
        with closing(answer["Body"]) as body:
            while done < length:
                part = buffer[done : min(done + PART_BYTES, length)]
                count = body.readinto(part.data)
                if not count:
                    raise CutShort(f"got {done} bytes, expected {length}; the connection or a proxy cuts answers short")
                yield part[:count]
                done += count


def _length_of(answer: Any, offset: int) -> int:
    """How many bytes the server says are in the range, which is shorter than asked for at the end of the object."""
    found = re.match(r"bytes (\d+)-(\d+)/", answer.get("ContentRange", ""))
    if found is None or int(found[1]) != offset:
        raise OSError(errno.EIO, f"asked for bytes from {offset} on, the server answers {answer.get('ContentRange')!r}")
    return int(found[2]) + 1 - offset
