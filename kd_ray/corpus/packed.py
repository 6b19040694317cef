"""Reading a packed corpus: shards, row groups, and the labels that a run may use."""

import hashlib
import io
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.config.corpus import AllLabels, Labels, LabelsPerClass, NoLabels
from kd_ray.corpus.format import (
    COMMITS,
    PACKINGS,
    SHARD_SCHEMA,
    Commit,
    Identity,
    commit_object,
    read_identity,
    shard_object,
)
from kd_ray.corpus.shard import FOOTER_TAIL_BYTES, footer_length
from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError, ShardCorrupt, StorageError
from kd_ray.storage import Storage, join, open_storage

Column = Literal["label", "size_px", "image"]
COLUMNS: tuple[Column, ...] = ("label", "size_px", "image")
NUM_READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A committed shard."""

    name: str
    split: SplitName
    rows_per_group: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return sum(self.rows_per_group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Samples in stored order; -1 is no label, sizes are (height, width). Columns that were not asked for are empty."""

    sample_ids: NDArray[np.uint64]
    labels: NDArray[np.int32]
    sizes_px: NDArray[np.int32]
    images: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """All samples of one split in the order of its shards: ids [N], labels [N] with -1 for none, SHA-256 [N, 32]."""

    sample_ids: NDArray[np.uint64]
    labels: NDArray[np.int32]
    sha256: NDArray[np.uint8]


@dataclass(frozen=True)
class PackedCorpus:
    """The shards that were committed when the corpus was opened; pickling keeps exactly those."""

    uri: str
    identity: Identity
    commits: tuple[Commit, ...]
    _metadata: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type["PackedCorpus"], tuple[str, Identity, tuple[Commit, ...]]]:
        return PackedCorpus, (self.uri, self.identity, self.commits)

    @property
    def corpus_id(self) -> str:
        return self.identity.corpus_id

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty without labels."""
        return self.identity.settings.classes

    def shards(self, split: SplitName) -> list[Shard]:
        """The shards of `split`, sorted by name."""
        return [
            Shard(name=commit.shard, split=commit.split, rows_per_group=commit.rows_per_group)
            for commit in self.commits
            if commit.split == split
        ]

    def num_samples(self, split: SplitName) -> int:
        """How many samples `split` has."""
        return sum(shard.num_rows for shard in self.shards(split))

    def read_rows(
        self, shard_name: str, group_start: int, group_stop: int, *, columns: Collection[Column] = COLUMNS
    ) -> Rows:
        """The samples of row groups `group_start` to `group_stop` (exclusive) of one shard.

        Raises:
            ShardCorrupt: the shard is missing, or a checksum does not match.
        """
        stored = {"label": ["label"], "size_px": ["height", "width"], "image": ["image"]}
        names = ["sample_id", *(name for column in COLUMNS if column in columns for name in stored[column])]
        table = self._read(self._commit(shard_name), names, groups=range(group_start, group_stop))
        sizes = [_numbers(table.column(name), np.int32) for name in ("height", "width") if name in names]
        return Rows(
            sample_ids=_numbers(table.column("sample_id"), np.uint64),
            labels=_labels(table) if "label" in names else np.empty(0, np.int32),
            sizes_px=np.stack(sizes, axis=1) if sizes else np.empty((0, 2), np.int32),
            images=table.column("image").to_pylist() if "image" in names else [],
        )

    def members(self, split: SplitName) -> Members:
        """Ids, labels and content hashes of all samples of `split`, without reading an image.

        Raises:
            ShardCorrupt: as `read_rows`.
        """
        commits = [commit for commit in self.commits if commit.split == split]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            tables = list(pool.map(lambda commit: self._read(commit, ["sample_id", "sha256", "label"]), commits))
        if not tables:
            return Members(
                sample_ids=np.empty(0, np.uint64), labels=np.empty(0, np.int32), sha256=np.empty((0, 32), np.uint8)
            )
        table = pa.concat_tables(tables)
        hashes = b"".join(table.column("sha256").to_pylist())
        return Members(
            sample_ids=_numbers(table.column("sample_id"), np.uint64),
            labels=_labels(table),
            sha256=np.frombuffer(hashes, np.uint8).reshape(-1, 32),
        )

    def labelled_ids(self, split: SplitName, labels: Labels) -> NDArray[np.uint64]:
        """Sorted sample ids of `split` whose label may be used; a function of content alone, whatever the packing.

        Raises:
            CorpusError: a class has fewer labels than asked for.
        """
        match labels:
            case NoLabels():
                return np.empty(0, np.uint64)
            case AllLabels():
                members = self.members(split)
                return np.sort(members.sample_ids[members.labels >= 0])
            case LabelsPerClass():
                return self._lowest_hashes(split, labels.count)
            case _:
                assert_never(labels)

    def _lowest_hashes(self, split: SplitName, count: int) -> NDArray[np.uint64]:
        members = self.members(split)
        if not self.classes:
            raise CorpusError(
                f"{self.uri}: has no labels, labels.kind per_class needs {count} a class. Use kind: none."
            )
        chosen = []
        for label, name in enumerate(self.classes):
            rows = np.flatnonzero(members.labels == label)
            if len(rows) < count:
                raise CorpusError(
                    f"{self.uri}: class {name!r} has {len(rows)} labelled samples in {split}, labels.count asks for "
                    f"{count}. Lower labels.count."
                )
            in_order = sorted(rows, key=lambda row: members.sha256[row].tobytes())
            chosen.append(members.sample_ids[in_order[:count]])
        return np.sort(np.concatenate(chosen))

    def _commit(self, shard_name: str) -> Commit:
        found = [commit for commit in self.commits if commit.shard == shard_name]
        if not found:
            raise CorpusError(f"{self.uri}: no shard {shard_name!r} was committed when the corpus was opened.")
        return found[0]

    def _read(self, commit: Commit, columns: list[str], *, groups: range | None = None) -> Any:
        """Columns of the row groups (all by default), as pyarrow's table; a wrong count of rows is corruption too."""
        groups = range(len(commit.rows_per_group)) if groups is None else groups
        assert 0 <= groups.start < groups.stop <= len(commit.rows_per_group), (commit.shard, groups)
        storage = open_storage(self.uri)
        try:
            metadata = self._metadata.get(commit.shard)
            if metadata is None:
                metadata = self._metadata[commit.shard] = _read_metadata(storage, commit)
            handle = _RangeFile(storage, commit)
            with pq.ParquetFile(handle, metadata=metadata, page_checksum_verification=True, pre_buffer=True) as file:
                table = file.read_row_groups(list(groups), columns=columns, use_threads=False)
        except (ShardCorrupt, StorageError):
            raise
        except FileNotFoundError as error:
            raise _corrupt(self.uri, commit, "the file is missing") from error
        except (pa.ArrowException, OSError) as error:
            raise _corrupt(self.uri, commit, str(error)) from error
        if table.num_rows != sum(commit.rows_per_group[group] for group in groups):
            raise _corrupt(self.uri, commit, f"{table.num_rows} rows, committed {commit.rows_per_group}")
        return table


def open_corpus(uri: str) -> PackedCorpus:
    """The packed corpus at `uri`.

    Raises:
        CorpusError: nothing is packed there, or no packing has come to its end.
    """
    storage = open_storage(uri)
    identity = read_identity(storage)
    if identity is None:
        raise CorpusError(f"{uri}: no packed corpus there. Run the pack stage, or correct corpus.packed_uri.")
    if not storage.list(PACKINGS):
        raise CorpusError(f"{uri}: its first packing has not come to its end. Run the pack stage again; it continues.")
    return committed(storage, identity)


def committed(storage: Storage, identity: Identity) -> PackedCorpus:
    """What has been committed so far, whether or not a packing has come to its end."""
    names = [name.removeprefix(f"{COMMITS}/").removesuffix(".json") for name in storage.list(COMMITS)]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        commits = tuple(pool.map(lambda name: read_commit(storage, name), names))
    return PackedCorpus(storage.uri, identity, commits)


def read_commit(storage: Storage, shard_name: str) -> Commit:
    """The commit of one shard."""
    name = commit_object(shard_name)
    return Commit.from_json(storage.read(name), where=join(storage.uri, name))


def _read_metadata(storage: Storage, commit: Commit) -> Any:
    """The footer, checked against the commit: page checksums cover neither it nor what it says of the pages."""
    name = shard_object(commit.shard)
    tail = storage.read_range(name, offset=commit.size_bytes - FOOTER_TAIL_BYTES, length=FOOTER_TAIL_BYTES)
    length = min(footer_length(tail), commit.size_bytes)
    footer = storage.read_range(name, offset=commit.size_bytes - length, length=length)
    if hashlib.sha256(footer).hexdigest() != commit.footer_sha256:
        raise _corrupt(storage.uri, commit, "the Parquet footer differs from the committed one")
    metadata = pq.read_metadata(io.BytesIO(footer))
    if not metadata.schema.to_arrow_schema().equals(SHARD_SCHEMA):
        raise _corrupt(storage.uri, commit, f"columns {metadata.schema.names}, expected {SHARD_SCHEMA.names}")
    return metadata


def _corrupt(uri: str, commit: Commit, what: str) -> ShardCorrupt:
    where = join(uri, shard_object(commit.shard))
    return ShardCorrupt(
        f"{where}: damaged: {what.rstrip('.')}. Restore it (SHA-256 {commit.sha256}), or pack to a new packed_uri."
    )


def _labels(table: Any) -> NDArray[np.int32]:
    return _numbers(pc.fill_null(table.column("label"), -1), np.int32)


def _numbers(column: Any, kind: type) -> NDArray[Any]:
    return np.array(column.to_numpy(), dtype=kind)


class _RangeFile(io.RawIOBase):
    """A shard as pyarrow reads files, on top of ranges; a file of another length than committed reads as damaged."""

    def __init__(self, storage: Storage, commit: Commit) -> None:
        super().__init__()
        self._storage, self._name, self._length = storage, shard_object(commit.shard), commit.size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = self._length - self._position
        data = self._storage.read_range(self._name, offset=self._position, length=left if size < 0 else min(size, left))
        self._position += len(data)
        return data
