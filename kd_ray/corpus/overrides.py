"""New labels and annotations for packed samples, from a table, without packing again."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.config.corpus import Access
from kd_ray.corpus.override_values import COLUMNS, KEY, LABEL, as_in_shards, check_values
from kd_ray.corpus.sources.files import beside
from kd_ray.corpus.sources.parquet_table import DAMAGE
from kd_ray.errors import CorpusError
from kd_ray.storage import digest_of_json, redacted


@dataclass(frozen=True)
class Overrides:
    """A table sorted by sample id; a null keeps what is packed.

    `num_matched` is how many rows are of samples in the corpus; None where that has not been counted.
    """

    uri: str
    digest: str
    sample_ids: NDArray[np.uint64]
    columns: dict[str, list[Any]]
    num_matched: int | None = None

    def matched(self, sample_ids_of_shards: Iterable[NDArray[np.uint64]]) -> "Overrides":
        """The same with its rows counted that are of the given samples, all those of a corpus.

        Raises:
            CorpusError: none is: a table of another corpus, or ids that have lost digits.
        """
        num_matched = sum(int(self._places(sample_ids)[1].sum()) for sample_ids in sample_ids_of_shards)
        if len(self.sample_ids) and not num_matched:
            raise CorpusError(
                f"{redacted(self.uri)}: none of its {len(self.sample_ids):,} rows has the sample_id of a packed "
                f"sample; the first is {self.sample_ids[0]}. Give the table of this corpus, with its ids."
            )
        return replace(self, num_matched=num_matched)

    def labels(self, sample_ids: NDArray[np.uint64], packed: NDArray[np.int32]) -> NDArray[np.int32]:
        """The labels [N] of samples, `packed` where the table says nothing."""
        if LABEL not in self.columns:
            return packed
        given = np.array([-1 if label is None else label for label in self.columns[LABEL]], np.int32)
        places, found = self._places(sample_ids)
        new = np.where(found, given[places] if len(given) else -1, -1)
        return np.where(new >= 0, new, packed).astype(np.int32)

    def values(self, column: str, sample_ids: NDArray[np.uint64], packed: Sequence[Any]) -> list[Any]:
        """The values of another column; nothing where that column was not read."""
        if column not in self.columns or not packed:
            return list(packed)
        places, found = self._places(sample_ids)
        new = [self.columns[column][place] if hit else None for place, hit in zip(places, found, strict=True)]
        return [old if value is None else value for value, old in zip(new, packed, strict=True)]

    def masks_digest(self) -> str | None:
        """A digest of the masks and their samples; None where there are none."""
        pairs = zip(self.sample_ids.tolist(), self.columns.get("mask", ()), strict=False)
        given = [[sample_id, hashlib.sha256(mask).hexdigest()] for sample_id, mask in pairs if mask is not None]
        return digest_of_json(given) if given else None

    def _places(self, sample_ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where in the table each sample would be, and whether it is there."""
        if not len(self.sample_ids):
            return np.zeros(len(sample_ids), np.int64), np.zeros(len(sample_ids), np.bool_)
        places = np.minimum(np.searchsorted(self.sample_ids, sample_ids), len(self.sample_ids) - 1)
        return places, self.sample_ids[places] == sample_ids


def read_overrides(uri: str, *, classes: Sequence[str], expected_digest: str | None = None) -> Overrides:
    """The table at `uri`: Parquet with `sample_id` (uint64) and any of label, mask, boxes, polygons, caption.

    Labels are numbers or names of `classes`; the other columns are as in a shard, corners and points in fractions.
    `expected_digest` is that of a table whose values have been checked: they are not looked at once more.

    Raises:
        CorpusError: no such file, a damaged or another one, other columns, a sample twice, a label that is no class, or
            a mask, box or polygon that no shard would hold.
        StorageError: it cannot be read.
    """
    where = redacted(uri)
    try:
        data = beside(uri, Access()).read("")
    except FileNotFoundError as error:
        raise CorpusError(f"{where}: no such table. Correct corpus.overrides_uri, or remove it.") from error
    except PermissionError as error:
        raise CorpusError(f"{where}: may not be read. Correct its permissions, or corpus.overrides_uri.") from error
    digest = hashlib.sha256(data).hexdigest()
    if expected_digest not in (None, digest):
        raise CorpusError(f"{where}: changed since the run began. Let it rest, then run the same command again.")
    table = as_in_shards(_parsed(data, where), where=where)
    if table.column(KEY).null_count:
        raise CorpusError(f"{where}: {table.column(KEY).null_count} rows have no {KEY}. Give each row one.")
    sample_ids = np.array(table.column(KEY).to_numpy(), np.uint64)
    columns = {name: table.column(name).to_pylist() for name in COLUMNS if name in table.column_names}
    if expected_digest is None:
        check_values(columns, sample_ids, where=where)
    if LABEL in columns:
        columns[LABEL] = [_index(label, classes, where) for label in columns[LABEL]]
    order = np.argsort(sample_ids, kind="stable")
    sample_ids = sample_ids[order]
    twice = sample_ids[1:][sample_ids[1:] == sample_ids[:-1]]
    if len(twice):
        raise CorpusError(f"{where}: sample_id {twice[0]} is there twice. Give each sample one row.")
    in_order = {name: [values[row] for row in order.tolist()] for name, values in columns.items()}
    return Overrides(uri, digest, sample_ids, in_order)


def _parsed(data: bytes, where: str) -> Any:
    """The table in a Parquet file, whole and as its writer left it."""
    try:
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as file:
            table = file.read(use_threads=False)
            table.validate(full=True)
            return table
    except DAMAGE as error:
        told = " ".join(str(error).split()).rstrip(".")
        raise CorpusError(
            f"{where}: not a Parquet file, or a damaged one ({told}). Restore it, or correct corpus.overrides_uri."
        ) from error


def _index(label: int | str | None, classes: Sequence[str], where: str) -> int | None:
    if label is None:
        return None
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and 0 <= label < len(classes):
        return label
    raise CorpusError(
        f"{where}: label {label!r} is none of the corpus's {len(classes)} classes. Give a number from 0 to "
        f"{len(classes) - 1}, or a name; new classes need a new packed_uri."
    )
