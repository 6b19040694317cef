"""How the files of a source are found and read, on this machine or on any fsspec URL."""

import posixpath
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations, islice
from typing import BinaryIO, TypeVar

from fsspec.implementations.local import LocalFileSystem

from kd_ray.config.corpus import Access, PathSplit, Split
from kd_ray.corpus.source import SPLITS, Entry, Rejected, SplitName
from kd_ray.corpus.sources.local_files import LocalFiles
from kd_ray.corpus.sources.pattern import Pattern, is_pattern
from kd_ray.corpus.sources.read_errors import refused_content
from kd_ray.corpus.sources.remote_files import HTTP, S3, RemoteFiles
from kd_ray.errors import CorpusError, StorageError
from kd_ray.storage import is_remote, join, redacted, redacted_text

T = TypeVar("T")
R = TypeVar("R")

NUM_READERS = 16
NOT_THERE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class SourceFiles:
    """Files below `uri`, or the file `uri` itself, named by their path relative to it; "" is `uri` itself.

    Raises:
        CorpusError: access settings for what is not S3, or an endpoint that is no URL.
    """

    uri: str
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        if self.access != Access() and not self.uri.startswith(S3):
            raise CorpusError(
                f"{redacted(self.uri)}: corpus.access is for s3:// only. Remove it, or correct corpus.uri."
            )
        if self.access.endpoint_url is not None and not self.access.endpoint_url.startswith(HTTP):
            raise CorpusError(
                f"corpus.access.endpoint_url: {redacted(self.access.endpoint_url)} does not begin with http:// or "
                "https://. Give the whole URL of the S3 endpoint."
            )

    @cached_property
    def _files(self) -> LocalFiles | RemoteFiles:
        if is_remote(self.uri):
            return RemoteFiles(self.uri, self.access)
        return LocalFiles(str(LocalFileSystem._strip_protocol(self.uri)).rstrip("/"))

    def where(self, location: str) -> str:
        """A location in full, for people."""
        return join(redacted(self.uri), location) if location else redacted(self.uri)

    def is_file(self) -> bool:
        """Whether `uri` itself is a file.

        Raises:
            StorageError: there is no telling.
        """
        with self._named("", "look at", passing=()):
            return self._files.is_file()

    def walk(self, below: str) -> Iterator[Entry | Rejected]:
        """Visible files anywhere below the folder `below` ("" for all), that one file, or those that match a pattern.

        The order is fixed: depth first, in each folder by name (on S3, by key). At most one folder's names are in
        memory. HTTP listings tell neither size nor version, which are 0 and "" then.

        Raises:
            CorpusError: there is nothing of that name.
            StorageError: it cannot be listed.
        """
        pattern = Pattern(below) if is_pattern(below) else None
        found_any = False
        with self._named(below, "list", passing=NOT_THERE):
            try:
                for found in self._files.walk(below if pattern is None else pattern.folder, pattern):
                    found_any = True
                    yield found
            except NOT_THERE as error:
                raise self._not_found(below) from error
        if pattern is not None and not found_any:
            raise self._not_found(below)

    def read(self, location: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError, PermissionError: as the file system has it.
            StorageError: anything else.
        """
        with self._named(location, "read"):
            return self._files.read(location)

    def read_range(self, location: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, fewer only where the file ends before; raises what `read` does."""
        with self._named(location, "read"):
            return self._files.read_range(location, start, stop) if start < stop else b""

    def open(self, location: str) -> BinaryIO:
        """The file opened for reading bytes at any place; raises what `read` does, its own errors when read from."""
        with self._named(location, "read"):
            return self._files.open(location)

    def read_each(self, locations: Iterable[str]) -> Iterator[tuple[str, bytes | Rejected]]:
        """The whole files in the order given; those that are gone, may not be read or lie on a bad sector as rejected.

        Raises:
            StorageError: the trouble is not one file's.
        """
        if not is_remote(self.uri):  # threads would only cost: the system's own cache is faster than they are
            return ((location, self.read_or_refuse(location)) for location in locations)
        return read_ahead(self.read_or_refuse, locations)

    def read_or_refuse(self, location: str) -> bytes | Rejected:
        """One file as `read_each` gives it."""
        try:
            return self._files.read(location)
        except OSError as error:
            reason = refused_content(error, is_local=not is_remote(self.uri))
            if reason is None:
                raise self._failed(location, "read", error) from error
            return Rejected(location=location, reason=reason, size_bytes=0)

    def look(self, location: str) -> Entry | Rejected | None:
        """One file as `walk` gives it; None where that would cost a request."""
        with self._named(location, "look at", passing=()):
            return self._files.look(location) if isinstance(self._files, LocalFiles) else None

    def lines(self, location: str) -> Iterator[bytes]:
        """The lines of a file with their ends, a few MiB of it in memory; raises what `read` does."""
        unfinished: list[bytes] = []  # joined once a line ends: one line may be the whole file
        with self._named(location, "read"):
            for chunk in self._files.chunks(location):
                unfinished.append(chunk)
                if b"\n" in chunk:
                    *lines, rest = b"".join(unfinished).split(b"\n")
                    unfinished = [rest]
                    yield from (line + b"\n" for line in lines)
        if any(unfinished):
            yield b"".join(unfinished)

    @contextmanager
    def _named(
        self,
        location: str,
        verb: str,
        *,
        passing: tuple[type[OSError], ...] = (FileNotFoundError, PermissionError),
    ) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, (StorageError, *passing)):
                raise
            raise self._failed(location, verb, error) from error

    def _failed(self, location: str, verb: str, error: OSError) -> StorageError:
        return StorageError(f"{self.where(location)}: cannot {verb}: {redacted_text(str(error))}.")

    def _not_found(self, below: str) -> CorpusError:
        what = "no file matches" if is_pattern(below) else "not found"
        return CorpusError(
            f"{self.where(below)}: {what}, expected images there. "
            "Check corpus.uri, and corpus.split where its kind is paths."
        )


def beside(uri: str, access: Access) -> SourceFiles:
    """What a source refers to elsewhere: `access`, which is for S3, does not hold for other kinds of locations."""
    return SourceFiles(uri, access if uri.startswith(S3) else Access())


def read_ahead(read: Callable[[T], R], wanted: Iterable[T], *, num_readers: int = NUM_READERS) -> Iterator[tuple[T, R]]:
    """What `read` gives for each in the order wanted, by threads that are a little ahead."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(num_readers) as pool:
        for each in wanted:
            waiting.append((each, pool.submit(read, each)))
            if len(waiting) == 2 * num_readers:
                first, data = waiting.popleft()
                yield first, data.result()
        while waiting:
            first, data = waiting.popleft()
            yield first, data.result()


def in_batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Runs of `size` values; the last may be shorter."""
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def split_roots(split: Split) -> list[tuple[SplitName | None, str]]:
    """Where below a source each split lies, a path or a pattern; one root "" of no split where the content decides.

    Patterns may still match the same file: `walk_splits` looks.

    Raises:
        CorpusError: a path leaves the source, is no valid pattern, or lies within another.
    """
    if not isinstance(split, PathSplit):
        return [(None, "")]
    given = {name: path for name in SPLITS if (path := getattr(split, name)) is not None}
    roots: dict[SplitName | None, str] = {name: _relative(path, name) for name, path in given.items()}
    for one, other in combinations(given, 2):
        if _overlap(roots[one], roots[other]):
            raise CorpusError(
                f"corpus.split: {one} ({given[one]}) and {other} ({given[other]}) overlap, so images would be in both. "
                "Give folders, files or patterns of which none contains another."
            )
    return list(roots.items())


def walk_splits(files: SourceFiles, split: Split) -> Iterator[tuple[SplitName | None, str, Iterator[Entry | Rejected]]]:
    """Every split with its root and its files, to be walked before the next one is.

    Raises:
        CorpusError: a root has nothing, or a file is in two splits.
        StorageError: the location cannot be listed.
    """
    roots = split_roots(split)
    for name, root in roots:
        others = [(text, _holder(text)) for _, text in roots if text != root and is_pattern(text + root)]
        yield name, root, _outside(files, root, others)


def _outside(
    files: SourceFiles, root: str, others: list[tuple[str, Callable[[str], bool]]]
) -> Iterator[Entry | Rejected]:
    for found in files.walk(root):
        for text, holds in others:
            if holds(found.location):
                raise CorpusError(
                    f"{files.where(found.location)}: in two splits of corpus.split, {root} and {text}. "
                    "Correct the patterns, so that no file matches two of them."
                )
        yield found


def _relative(path: str, name: str) -> str:
    normal = posixpath.normpath(path)
    if normal.startswith("/") or normal.split("/")[0] == "..":
        raise CorpusError(f"corpus.split.{name}: {path!r} is not below corpus.uri. Give a path relative to it.")
    if any("**" in part and part != "**" for part in normal.split("/")):
        raise CorpusError(f"corpus.split.{name}: {path!r} is no pattern: ** stands for whole folders (data/**/*.tar).")
    return "" if normal == "." else normal


def _overlap(a: str, b: str) -> bool:
    if a == b:
        return True
    if is_pattern(a) and is_pattern(b):
        return False
    if is_pattern(a) or is_pattern(b):
        pattern, plain = (a, b) if is_pattern(a) else (b, a)
        return _contains(plain, Pattern(pattern).folder)
    return _contains(a, b) or _contains(b, a)


def _contains(folder: str, path: str) -> bool:
    return not folder or path == folder or path.startswith(folder + "/")


def _holder(root: str) -> Callable[[str], bool]:
    return Pattern(root).takes if is_pattern(root) else partial(_contains, root)
