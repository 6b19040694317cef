"""Storage on any fsspec URL; conditional create is the server's own (`If-None-Match: *`), which S3 offers."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec

from kd_ray.errors import StorageError
from kd_ray.storage.base import Names, join

CONDITIONAL_PROTOCOLS = frozenset({"s3", "s3a"})


@dataclass(frozen=True)
class FsspecStorage:
    """A `Storage` below `uri`; credentials and endpoint come from the usual environment of the protocol's client."""

    uri: str

    @cached_property
    def _fs(self) -> Any:
        return fsspec.core.url_to_fs(self.uri, use_listings_cache=False)[0]

    @cached_property
    def _root(self) -> str:
        return str(fsspec.core.url_to_fs(self.uri, use_listings_cache=False)[1]).rstrip("/")

    def _path(self, name: str) -> str:
        return join(self._root, name) if name else self._root

    def read(self, name: str) -> bytes:
        with self._named(name, "read"):
            return bytes(self._fs.cat_file(self._path(name)))

    def read_range(self, name: str, *, offset: int, length: int) -> bytes:
        with self._named(name, "read"):
            return bytes(self._fs.cat_file(self._path(name), start=offset, end=offset + length))

    def exists(self, name: str) -> bool:
        with self._named(name, "read"):
            return bool(self._fs.isfile(self._path(name)))

    def size_bytes(self, name: str) -> int:
        with self._named(name, "read"):
            return int(self._fs.size(self._path(name)))

    def list(self, prefix: str) -> Names:
        with self._named(prefix, "list"):
            found = self._fs.find(self._path(prefix))
        return sorted(path[len(self._root) + 1 :] for path in found)

    def folders(self, prefix: str) -> Names:
        with self._named(prefix, "list"):
            try:
                entries = self._fs.ls(self._path(prefix), detail=True)
            except FileNotFoundError:
                return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")

    def write(self, name: str, data: bytes) -> None:
        with self._named(name, "write"):
            self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        protocol = self.uri.split("://", 1)[0]
        if protocol not in CONDITIONAL_PROTOCOLS:
            raise StorageError(f"{self.uri}: {protocol} has no conditional create; write to a local path or to s3://.")
        with self._named(name, "write"):
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                # Ceph's gateway answers the lost race with EINVAL instead of a 412; the object's presence tells.
                if error.errno == errno.EINVAL and self._fs.isfile(self._path(name)):
                    return False
                raise
            return True

    def remove(self, prefix: str) -> None:
        with self._named(prefix, "remove"):
            try:
                self._fs.rm(self._path(prefix), recursive=True)
            except FileNotFoundError:
                return

    @contextmanager
    def _named(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StorageError):
            raise
        except OSError as error:
            raise StorageError(f"{join(self.uri, name)}: cannot {verb}: {error}.") from error
