"""Source files on this machine, walked and read by the bare calls of the system: packing spends 16 us a file here."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from kd_ray.corpus.source import Entry, Rejected
from kd_ray.corpus.sources.pattern import Pattern
from kd_ray.corpus.sources.read_errors import NotAFile, refused

# Without O_NONBLOCK, opening a pipe waits for a writer.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files below the folder `root`; all errors are those of the system."""

    root: str

    def path(self, location: str) -> str:
        """Where the file lies."""
        return f"{self.root}/{location}" if location else self.root or "/"

    def is_file(self) -> bool:
        """Whether the root is a file."""
        return os.path.isfile(self.path(""))

    def read(self, location: str) -> bytes:
        """The whole file."""
        descriptor = os.open(self.path(location), READ_FLAGS)
        try:
            return _read_all(descriptor)
        finally:
            os.close(descriptor)

    def read_range(self, location: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`; fewer only where the file ends before."""
        with self.open(location) as file:
            file.seek(start)
            return file.read(stop - start)

    def open(self, location: str) -> BinaryIO:
        """The file opened for reading bytes."""
        return open(self.path(location), "rb")

    def chunks(self, location: str) -> Iterator[bytes]:
        """The file from its beginning, piece by piece."""
        with self.open(location) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def look(self, location: str) -> Entry | Rejected:
        """One file as `walk` gives it."""
        try:
            return _seen(location, os.stat(self.path(location)))
        except OSError as error:
            reason = refused(error)
            if reason is None:
                raise
            return Rejected(location=location, reason=reason, size_bytes=0)

    def walk(self, below: str, pattern: Pattern | None) -> Iterator[Entry | Rejected]:
        """The file `below`, or all visible ones in that folder that match."""
        status = os.stat(self.path(below))
        if not stat.S_ISDIR(status.st_mode):
            if pattern is None:
                yield _seen(below, status)
            return
        ancestors = _with_ancestors(os.path.realpath(self.path(below)))
        # a stack, not recursion: paths may be a thousand folders deep
        open_folders = [(below, iter(self._names(below)))]
        while open_folders:
            folder, names = open_folders[-1]
            name = next(names, None)
            if name is None:
                open_folders.pop()
                ancestors.pop()
                continue
            found = self._look(f"{folder}/{name}" if folder else name, pattern, ancestors)
            if isinstance(found, _Folder):
                ancestors.append(found.identity)
                open_folders.append((found.location, iter(found.names)))
            elif found is not None:
                yield found

    def _look(
        self, location: str, pattern: Pattern | None, ancestors: list[tuple[int, int]]
    ) -> "Entry | Rejected | _Folder | None":
        try:
            location.encode()
            status = os.stat(self.path(location))
            if not stat.S_ISDIR(status.st_mode):
                return _seen(location, status) if pattern is None or pattern.takes(location) else None
            if pattern is not None and not pattern.enters(location):
                return None
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                return Rejected(location=location, reason="symlink_loop", size_bytes=0)
            return _Folder(location, self._names(location), identity)
        except UnicodeEncodeError:
            location = os.fsencode(location).decode("utf-8", "backslashreplace")
            rejected = Rejected(location=location, reason="unreadable", size_bytes=0)
        except OSError as error:
            reason = refused(error)
            if reason is None:
                raise
            rejected = Rejected(location=location, reason=reason, size_bytes=0)
        is_wanted = pattern is None or pattern.takes(location) or pattern.enters(location)
        return rejected if is_wanted else None

    def _names(self, folder: str) -> list[str]:
        # not scandir, whose entries take four times the memory of the names where a folder holds millions of files
        return sorted(name for name in os.listdir(self.path(folder)) if not name.startswith("."))


READABLE = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class _Folder:
    location: str
    names: list[str]
    identity: tuple[int, int]


def _seen(location: str, status: os.stat_result) -> Entry | Rejected:
    if not stat.S_ISREG(status.st_mode):
        return Rejected(location=location, reason="not_a_file", size_bytes=0)
    # a file that some may not read is another one once they may: it is then looked at again
    closed = "" if status.st_mode & READABLE == READABLE else f" {status.st_mode & READABLE:o}"
    return Entry(location=location, size_bytes=status.st_size, version=f"{status.st_mtime_ns}{closed}")


def _with_ancestors(path: str) -> list[tuple[int, int]]:
    """Device and inode of every folder from the root of the system down to `path`."""
    statuses = []
    while True:
        statuses.append(os.stat(path))
        parent = os.path.dirname(path)
        if parent == path:
            return [(status.st_dev, status.st_ino) for status in reversed(statuses)]
        path = parent


def _read_all(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("is a folder, a pipe, a socket or a device")
    # one byte more than there should be: a short answer is then the end, and no second call is needed to see it
    data = os.read(descriptor, status.st_size + 1)
    if len(data) == status.st_size:
        return data
    chunks = [data]
    while chunks[-1]:
        chunks.append(os.read(descriptor, 1 << 20))
    return b"".join(chunks)
