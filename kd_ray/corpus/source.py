"""What a source of images is, and how its files are found and read on any fsspec location."""

import posixpath
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

import fsspec

from kd_ray.config.corpus import PathSplit, Split
from kd_ray.errors import CorpusError, StorageError
from kd_ray.storage import join

SplitName = Literal["train", "test"]
T = TypeVar("T")

# Images held at once while scanning; enough to keep eight readers busy between two batches.
BATCH_SIZE = 32
NUM_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a source as a listing shows it; `version` is an ETag or a modification time."""

    location: str
    size_bytes: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One source image: `location` is relative to the source; `split` is None where the content decides it."""

    location: str
    split: SplitName | None
    label: int | None
    data: bytes


class Source(Protocol):
    """Labelled or unlabelled images below one location, as they were when the source was opened."""

    @property
    def uri(self) -> str:
        """The location."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; empty without labels."""

    @property
    def num_samples(self) -> int:
        """How many images `samples` gives."""

    @property
    def num_other_files(self) -> int:
        """Visible files that were left aside because their names are not those of images."""

    def listing(self) -> list[Entry]:
        """Every file that the samples depend on, sorted; cheap, for change detection."""

    def samples(self) -> Iterator[Sample]:
        """All images in a fixed order, few of them in memory at a time."""

    def read(self, locations: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The images at `locations`, each once, in the order that is cheapest to read."""


@dataclass(frozen=True)
class SourceFiles:
    """Files below `uri`, named by their path relative to it."""

    uri: str

    @cached_property
    def _fs(self) -> Any:
        return fsspec.core.url_to_fs(self.uri, use_listings_cache=False)[0]

    @cached_property
    def _root(self) -> str:
        return str(fsspec.core.url_to_fs(self.uri)[1]).rstrip("/")

    def is_file(self) -> bool:
        """Whether `uri` itself is a file."""
        return bool(self._fs.isfile(self._root))

    def entries(self, below: str) -> list[Entry]:
        """Visible files anywhere below the folder `below` ("" for all), or that one file, sorted by location.

        Raises:
            CorpusError: there is neither a file nor a folder of that name.
        """
        path, where = (_below(root, below) for root in (self._root, self.uri))
        try:
            found = self._fs.find(path, detail=True)
        except OSError as error:
            raise StorageError(f"{where}: cannot list: {error}.") from error
        if not found and not self._fs.exists(path):
            raise CorpusError(
                f"{where}: not found, expected images there. "
                "Check corpus.uri, and corpus.split where its kind is paths."
            )
        entries = (_entry(name[len(self._root) + 1 :], info) for name, info in found.items())
        return sorted((entry for entry in entries if _is_visible(entry.location)), key=lambda entry: entry.location)

    def open(self, location: str) -> Any:
        """The file opened for reading bytes."""
        with _named(self.uri, location):
            return self._fs.open(join(self._root, location), "rb")

    def read(self, location: str) -> bytes:
        """The whole file."""
        with _named(self.uri, location):
            return bytes(self._fs.cat_file(join(self._root, location)))

    def read_many(self, locations: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The whole files in the order given, a batch of them at a time by several threads."""
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for batch in in_batches(locations, BATCH_SIZE):
                yield from zip(batch, pool.map(self.read, batch), strict=True)


def in_batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Runs of `size` values; the last may be shorter."""
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def split_roots(split: Split) -> list[tuple[SplitName | None, str]]:
    """Where below a source each split lies; one root "" of no split where the content decides.

    Raises:
        CorpusError: a path leaves the source, or one lies within the other.
    """
    if not isinstance(split, PathSplit):
        return [(None, "")]
    test = _relative(split.test, "test")
    if split.train is None:
        return [("test", test)]
    train = _relative(split.train, "train")
    if posixpath.commonpath(["/" + train, "/" + test]) in ("/" + train, "/" + test):
        raise CorpusError(
            f"corpus.split: train ({split.train}) and test ({split.test}) overlap, so test images would be trained on. "
            "Give two folders or files of which neither contains the other."
        )
    return [("train", train), ("test", test)]


def _relative(path: str, name: str) -> str:
    normal = posixpath.normpath(path)
    if normal.startswith(("/", "..")):
        raise CorpusError(f"corpus.split.{name}: {path!r} is not below corpus.uri. Give a path relative to it.")
    return "" if normal == "." else normal


def _below(root: str, path: str) -> str:
    return join(root, path) if path else root


def _entry(location: str, info: dict[str, Any]) -> Entry:
    version = next((str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in info), "")
    try:
        location.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{location!r}: the file name is not valid UTF-8. Rename the file.") from error
    return Entry(location=location, size_bytes=int(info["size"]), version=version)


def _is_visible(location: str) -> bool:
    return not any(part.startswith(".") for part in location.split("/"))


@contextmanager
def _named(uri: str, location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        where = join(uri, location)
        raise CorpusError(
            f"{where}: gone since the source was listed. Let the source rest, then pack again."
        ) from error
    except OSError as error:
        raise StorageError(f"{join(uri, location)}: cannot read: {error}.") from error
