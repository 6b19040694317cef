"""New labels and annotations for packed samples, from a table, without packing again."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.corpus.format import SHARD_SCHEMA
from kd_ray.errors import CorpusError
from kd_ray.storage import open_storage

KEY = "sample_id"
LABEL = "label"
COLUMNS = (LABEL, "mask", "boxes", "polygons", "caption")


@dataclass(frozen=True)
class Overrides:
    """A table sorted by sample id; a null keeps what is packed."""

    uri: str
    digest: str
    sample_ids: NDArray[np.uint64]
    columns: dict[str, list[Any]]

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

    def _places(self, sample_ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where in the table each sample would be, and whether it is there."""
        if not len(self.sample_ids):
            return np.zeros(len(sample_ids), np.int64), np.zeros(len(sample_ids), np.bool_)
        places = np.minimum(np.searchsorted(self.sample_ids, sample_ids), len(self.sample_ids) - 1)
        return places, self.sample_ids[places] == sample_ids


def read_overrides(uri: str, *, classes: Sequence[str]) -> Overrides:
    """The table at `uri`: Parquet with `sample_id` (uint64) and any of label, mask, boxes, polygons, caption.

    Labels are numbers or names of `classes`; the other columns are as in a shard, corners and points in fractions.

    Raises:
        CorpusError: no such file, other columns, a sample twice, or a label that is no class.
    """
    parent, _, name = uri.rpartition("/")
    try:
        data = open_storage(parent or ".").read(name)
        table = pq.read_table(io.BytesIO(data))
    except FileNotFoundError as error:
        raise CorpusError(f"{uri}: no such table. Correct corpus.overrides_uri, or remove it.") from error
    except pa.ArrowException as error:
        raise CorpusError(f"{uri}: not a Parquet file ({error}). Correct corpus.overrides_uri.") from error
    _check_columns(table, uri)
    if table.column(KEY).null_count:
        raise CorpusError(f"{uri}: {table.column(KEY).null_count} rows have no {KEY}. Give each row one.")
    table = _cast(table, uri).sort_by(KEY)
    sample_ids = np.array(table.column(KEY).to_numpy(), np.uint64)
    twice = sample_ids[1:][sample_ids[1:] == sample_ids[:-1]]
    if len(twice):
        raise CorpusError(f"{uri}: sample_id {twice[0]} is there twice. Give each sample one row.")
    columns = {name: table.column(name).to_pylist() for name in COLUMNS if name in table.column_names}
    if LABEL in columns:
        columns[LABEL] = [_index(label, classes, uri) for label in columns[LABEL]]
    return Overrides(uri, hashlib.sha256(data).hexdigest(), sample_ids, columns)


def _check_columns(table: Any, uri: str) -> None:
    names = table.column_names
    unknown = [name for name in names if name not in (KEY, *COLUMNS)]
    if KEY not in names or unknown or len(names) < 2:
        raise CorpusError(
            f"{uri}: has the columns {', '.join(names)}, expected {KEY} and any of {', '.join(COLUMNS)}. "
            "Correct the table."
        )


def _cast(table: Any, uri: str) -> Any:
    """The columns in the types of a shard, whatever equal types their writer has chosen."""
    for place, name in enumerate(table.column_names):
        found, wanted = table.schema.field(name).type, SHARD_SCHEMA.field(name).type
        if name == LABEL:
            wanted = pa.string() if _is_text(found) else pa.int64()
        problem = f"{uri}: column {name} holds {found}, expected {wanted}"
        if wanted == pa.string() and not _is_text(found):  # a cast would write numbers as text
            raise CorpusError(f"{problem}. Correct the table.")
        try:
            table = table.set_column(place, name, table.column(name).cast(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise CorpusError(f"{problem} ({error}). Correct the table.") from error
    return table


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _index(label: int | str | None, classes: Sequence[str], uri: str) -> int | None:
    if label is None:
        return None
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and 0 <= label < len(classes):
        return label
    raise CorpusError(
        f"{uri}: label {label!r} is none of the corpus's {len(classes)} classes. Give a number from 0 to "
        f"{len(classes) - 1}, or a name; new classes need a new packed_uri."
    )
