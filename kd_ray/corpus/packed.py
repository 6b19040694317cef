"""Reading a packed corpus: shards, row groups, and the labels that a run may use."""

import hashlib
import io
from bisect import bisect_left
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.config.corpus import AllLabels, Labels, LabelsPerClass, NoLabels
from kd_ray.corpus.format import (
    FOOTER_TAIL_BYTES,
    PACKINGS,
    SHARD_SCHEMA,
    Commit,
    Identity,
    Packing,
    commit_object,
    footer_length,
    read_identity,
)
from kd_ray.corpus.overrides import Overrides, read_overrides
from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError, ShardCorrupt, StorageError
from kd_ray.storage import Storage, digest_of_json, join, open_storage
from kd_ray.storage.range_file import RangeFile

Column = Literal["label", "size_px", "image", "mask", "boxes", "polygons", "caption"]
COLUMNS: tuple[Column, ...] = ("label", "size_px", "image")
ANNOTATIONS: tuple[Column, ...] = ("mask", "boxes", "polygons", "caption")
MEMBER_COLUMNS = ["sample_id", "sha256", "label", "copies"]
NUM_READERS = 16
NUM_FOOTERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A committed shard; `source` is the name of its source in a mixture, "" alone."""

    name: str
    source: str
    split: SplitName
    rows_per_group: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return sum(self.rows_per_group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Samples in stored order; -1 is no label, sizes are (height, width). Columns that were not asked for are empty.

    `rows_per_group` cuts them into the row groups that they were read from.

    `masks` are encoded images of class indices; `boxes` and `polygons` lists of `{"label", "corners"}` and `{"label",
    "points"}` in fractions of the upright image; None where a sample has none.
    """

    sample_ids: NDArray[np.uint64]
    labels: NDArray[np.int32]
    sizes_px: NDArray[np.int32]
    images: list[bytes]
    rows_per_group: tuple[int, ...]
    masks: list[bytes | None] = field(default_factory=list)
    boxes: list[list[dict[str, Any]] | None] = field(default_factory=list)
    polygons: list[list[dict[str, Any]] | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """All samples of one split in the order of its shards: ids [N], labels [N] with -1 for none, SHA-256 [N, 32].

    `copies` [N] says how many equal source images each stood for when it was packed.
    """

    sample_ids: NDArray[np.uint64]
    labels: NDArray[np.int32]
    sha256: NDArray[np.uint8]
    copies: NDArray[np.int32]


_NO_MEMBERS = Members(
    sample_ids=np.empty(0, np.uint64),
    labels=np.empty(0, np.int32),
    sha256=np.empty((0, 32), np.uint8),
    copies=np.empty(0, np.int32),
)


@dataclass(frozen=True)
class PackedCorpus:
    """The shards that were committed when the corpus was opened; pickling keeps exactly those, and the overrides."""

    uri: str
    identity: Identity
    commits: tuple[Commit, ...]
    overrides: Overrides | None = None
    _metadata: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type["PackedCorpus"], tuple[Any, ...]]:
        return PackedCorpus, (self.uri, self.identity, self.commits, self.overrides)

    @property
    def corpus_id(self) -> str:
        """What the images are; overrides do not change it, so that targets stay valid."""
        return self.identity.corpus_id

    @property
    def annotated_id(self) -> str:
        """What images and annotations are: whatever is learnt from labels depends on it."""
        said = [[commit.shard, commit.annotations] for commit in self.commits]
        overrides = None if self.overrides is None else self.overrides.digest
        return digest_of_json([self.corpus_id, list(self.classes), said, overrides])

    def masks_id(self, split: SplitName) -> str:
        """What the masks of `split` are, for views that depend on them; samples that are added later do not change it.

        From the annotations of the shards that were packed together with the first one, which `corpus_id` does not
        cover, and the masks of the overrides.
        """
        commits = [commit for commit in self.commits if commit.split == split]
        first = [[each.shard, each.annotations] for each in commits if each.listing_digest == commits[0].listing_digest]
        overrides = None if self.overrides is None else self.overrides.masks_digest()
        return digest_of_json([first, overrides])

    @property
    def address(self) -> "CorpusAddress":
        """Where another process opens it."""
        if self.overrides is None:
            return CorpusAddress(uri=self.uri)
        return CorpusAddress(uri=self.uri, overrides_uri=self.overrides.uri, overrides_digest=self.overrides.digest)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty without labels."""
        return self.identity.classes

    def shards(self, split: SplitName) -> list[Shard]:
        """The shards of `split`, sorted by name."""
        return [
            Shard(name=commit.shard, source=commit.source, split=commit.split, rows_per_group=commit.rows_per_group)
            for commit in self.commits
            if commit.split == split
        ]

    def rows_per_group(self, shard_name: str) -> tuple[int, ...]:
        """How many rows each row group of a shard has."""
        return self._commit(shard_name).rows_per_group

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
        wanted = [column for column in (*COLUMNS, *ANNOTATIONS) if column in columns]
        names = [name for column in wanted for name in (["height", "width"] if column == "size_px" else [column])]
        commit = self._commit(shard_name)
        table = self._read(commit, ["sample_id", *names], groups=range(group_start, group_stop))
        sizes = [_numbers(table.column(name), np.int32) for name in ("height", "width") if name in names]

        def values(name: Column) -> list[Any]:
            return table.column(name).to_pylist() if name in names else []

        rows = Rows(
            sample_ids=_numbers(table.column("sample_id"), np.uint64),
            labels=_labels(table) if "label" in names else np.empty(0, np.int32),
            sizes_px=np.stack(sizes, axis=1) if sizes else np.empty((0, 2), np.int32),
            images=values("image"),
            rows_per_group=commit.rows_per_group[group_start:group_stop],
            masks=values("mask"),
            boxes=values("boxes"),
            polygons=values("polygons"),
            captions=values("caption"),
        )
        return rows if self.overrides is None else _overridden(rows, self.overrides)

    def locations(self, shard_name: str, group_start: int, group_stop: int) -> list[str]:
        """Where the samples of some row groups came from, relative to their source; in a mixture the source's name and
        a slash come first. Raises what `read_rows` does.
        """
        commit = self._commit(shard_name)
        table = self._read(commit, ["location"], groups=range(group_start, group_stop))
        prefix = f"{commit.source}/" if commit.source else ""
        return [f"{prefix}{location}" for location in table.column("location").to_pylist()]

    def ids_without_mask(self, shard_name: str, group_start: int, group_stop: int) -> NDArray[np.uint64]:
        """The samples of some row groups that have no mask, nor one of the overrides; raises what `read_rows` does."""
        wanted: tuple[Column, ...] = ("mask",)
        rows = self.read_rows(shard_name, group_start, group_stop, columns=wanted)
        return rows.sample_ids[[mask is None for mask in rows.masks]]

    def members(self, split: SplitName) -> Members:
        """Ids, labels and content hashes of all samples of `split`, without reading an image.

        Raises:
            ShardCorrupt: as `read_rows`.
        """
        with ThreadPoolExecutor(NUM_READERS) as pool:
            read = pool.map(lambda shard: self.shard_members(shard.name), self.shards(split))
            parts = [_NO_MEMBERS, *read]
        return Members(
            sample_ids=np.concatenate([part.sample_ids for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            sha256=np.concatenate([part.sha256 for part in parts]),
            copies=np.concatenate([part.copies for part in parts]),
        )

    def shard_members(self, shard_name: str) -> Members:
        """Those of one shard.

        Raises:
            ShardCorrupt: as `read_rows`.
        """
        members = _members(self._read(self._commit(shard_name), MEMBER_COLUMNS, keep=False))
        if self.overrides is None:
            return members
        return replace(members, labels=self.overrides.labels(members.sample_ids, members.labels))

    def shard_sample_ids(self, commit: Commit) -> NDArray[np.uint64]:
        """The ids of the samples of one shard; raises what `read_rows` does."""
        return _numbers(self._read(commit, ["sample_id"], keep=False).column("sample_id"), np.uint64)

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
        # sorted by name: a search through all would cost as much as reading for a corpus of many shards
        at = bisect_left(self.commits, shard_name, key=lambda commit: commit.shard)
        if at == len(self.commits) or self.commits[at].shard != shard_name:
            raise CorpusError(f"{self.uri}: no shard {shard_name!r} was committed when the corpus was opened.")
        return self.commits[at]

    def _keep(self, shard_name: str, metadata: Any) -> None:
        """Keep a footer for the next row groups of its shard; each takes 200 kB, so only the latest stay."""
        self._metadata[shard_name] = metadata
        for oldest in list(self._metadata)[:-NUM_FOOTERS]:
            self._metadata.pop(oldest, None)

    def _read(self, commit: Commit, columns: list[str], *, groups: range | None = None, keep: bool = True) -> Any:
        """Columns of the row groups (all by default), as pyarrow's table; a wrong count of rows is corruption too."""
        groups = range(len(commit.rows_per_group)) if groups is None else groups
        assert 0 <= groups.start < groups.stop <= len(commit.rows_per_group), (commit.shard, groups)
        storage = open_storage(self.uri)
        try:
            metadata = self._metadata.get(commit.shard)
            if metadata is None:
                metadata = _read_metadata(storage, commit)
                if keep:
                    self._keep(commit.shard, metadata)
            handle = RangeFile(
                lambda start, stop: storage.read_range(commit.object, offset=start, length=stop - start),
                size_bytes=commit.size_bytes,  # a file of another length reads as damaged
            )
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusAddress:
    """Where a packed corpus lies, and the table of its overrides, with the digest that it must have."""

    uri: str
    overrides_uri: str | None = None
    overrides_digest: str | None = None

    def open(self) -> PackedCorpus:
        """The corpus as it is now.

        Raises:
            CorpusError: as `open_corpus`, or the table of overrides is another one by now.
        """
        corpus = open_corpus(self.uri)
        if self.overrides_uri is None:
            return corpus
        overrides = read_overrides(self.overrides_uri, classes=corpus.classes, expected_digest=self.overrides_digest)
        return replace(corpus, overrides=overrides)


def open_corpus(uri: str, *, overrides_uri: str | None = None) -> PackedCorpus:
    """The packed corpus at `uri`, with the annotations of the table at `overrides_uri` in the place of its own.

    Raises:
        CorpusError: nothing is packed there, no packing has come to its end, or the table is not one of overrides for
            its samples.
    """
    storage = open_storage(uri)
    identity = read_identity(storage)
    if identity is None:
        raise CorpusError(f"{uri}: no packed corpus there. Run the pack stage, or correct corpus.packed_uri.")
    packings = finished_packings(storage)
    if not packings:
        raise CorpusError(f"{uri}: its first packing has not come to its end. Run the pack stage again; it continues.")
    corpus = corpus_of(uri, identity, packings)
    if overrides_uri is None:
        return corpus
    overrides = read_overrides(overrides_uri, classes=corpus.classes)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return replace(corpus, overrides=overrides.matched(pool.map(corpus.shard_sample_ids, corpus.commits)))


def corpus_of(uri: str, identity: Identity, packings: Sequence[Packing]) -> PackedCorpus:
    """Everything that the given packings, oldest first, have packed."""
    commits = {commit.shard: commit for packing in packings for commit in packing.commits}
    if packings:
        identity = replace(identity, classes=packings[-1].classes)
    return PackedCorpus(uri, identity, tuple(commits[name] for name in sorted(commits)))


def finished_packings(storage: Storage) -> list[Packing]:
    """The records of all packings that have come to their end: few objects, whatever the size of the corpus."""
    names = storage.list(PACKINGS)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return list(pool.map(lambda name: Packing.from_json(storage.read(name), where=join(storage.uri, name)), names))


def read_commit(storage: Storage, shard_name: str) -> Commit:
    """The commit of one shard."""
    name = commit_object(shard_name)
    return Commit.from_json(storage.read(name), where=join(storage.uri, name))


def _read_metadata(storage: Storage, commit: Commit) -> Any:
    """The footer, checked against the commit: page checksums cover neither it nor what it says of the pages."""
    name = commit.object
    tail = storage.read_range(name, offset=commit.size_bytes - FOOTER_TAIL_BYTES, length=FOOTER_TAIL_BYTES)
    length = min(footer_length(tail), commit.size_bytes)
    footer = storage.read_range(name, offset=commit.size_bytes - length, length=length)
    if hashlib.sha256(footer).hexdigest() != commit.footer_sha256:
        raise _corrupt(storage.uri, commit, "the Parquet footer differs from the committed one")
    metadata = pq.read_metadata(io.BytesIO(footer))
    # not metadata.schema, which refers back to it: 200 kB a footer would stay until the garbage collector runs
    with pq.ParquetFile(io.BytesIO(footer), metadata=metadata) as file:
        if not file.schema_arrow.equals(SHARD_SCHEMA):
            raise _corrupt(storage.uri, commit, f"columns {file.schema_arrow.names}, expected {SHARD_SCHEMA.names}")
    return metadata


def _corrupt(uri: str, commit: Commit, what: str) -> ShardCorrupt:
    where = join(uri, commit.object)
    return ShardCorrupt(f"{where}: damaged: {what.rstrip('.')}. Restore it, or pack to a new packed_uri.")


def _members(table: Any) -> Members:
    hashes = b"".join(table.column("sha256").to_pylist())
    return Members(
        sample_ids=_numbers(table.column("sample_id"), np.uint64),
        labels=_labels(table),
        sha256=np.frombuffer(hashes, np.uint8).reshape(-1, 32),
        copies=_numbers(table.column("copies"), np.int32),
    )


def _overridden(rows: Rows, overrides: Overrides) -> Rows:
    """The rows with the overrides' values in the columns that were read."""
    return replace(
        rows,
        labels=overrides.labels(rows.sample_ids, rows.labels) if len(rows.labels) else rows.labels,
        masks=overrides.values("mask", rows.sample_ids, rows.masks),
        boxes=overrides.values("boxes", rows.sample_ids, rows.boxes),
        polygons=overrides.values("polygons", rows.sample_ids, rows.polygons),
        captions=overrides.values("caption", rows.sample_ids, rows.captions),
    )


def _labels(table: Any) -> NDArray[np.int32]:
    return _numbers(pc.fill_null(table.column("label"), -1), np.int32)


def _numbers(column: Any, kind: type) -> NDArray[Any]:
    return np.array(column.to_numpy(), dtype=kind)
