"""Images in Parquet files: a column of encoded bytes, or Hugging Face's `{bytes, path}` structs."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.config.corpus import ParquetCorpus
from kd_ray.corpus.source import BATCH_SIZE, Entry, Sample, SourceFiles, SplitName, split_roots
from kd_ray.errors import CorpusError
from kd_ray.storage import join

SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    location: str
    split: SplitName | None


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """A `Source` of Parquet rows, each located as `<file>#<row>`.

    Reading at random streams every row group that holds a wanted row, so packing costs (shards x row groups they
    touch); small row groups keep that low.
    """

    files: SourceFiles
    entries: tuple[Entry, ...]
    tables: tuple[_Table, ...]
    image_column: str
    label_column: str | None
    class_names: tuple[str, ...] | None
    num_other_files: int

    @property
    def uri(self) -> str:
        return self.files.uri

    @cached_property
    def num_samples(self) -> int:
        total = 0
        for table in self.tables:
            with self._opened(table.location) as file:
                total += file.metadata.num_rows
        return total

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if self.label_column is None:
            return ()
        if self.class_names is not None:
            return self.class_names
        highest = -1
        for table in self.tables:
            with self._opened(table.location) as file:
                column = pc.max(file.read(columns=[self.label_column]).column(0)).as_py()
                highest = max(highest, -1 if column is None else column)
        return tuple(str(index) for index in range(highest + 1))

    def listing(self) -> list[Entry]:
        return list(self.entries)

    def samples(self) -> Iterator[Sample]:
        for table in self.tables:
            row = 0
            with self._opened(table.location) as file:
                for batch in file.iter_batches(batch_size=BATCH_SIZE, columns=self._columns()):
                    for data, label in zip(self._images(batch), self._labels(batch), strict=True):
                        location = f"{table.location}#{row}"
                        self._check_label(label, location)
                        yield Sample(location=location, split=table.split, label=label, data=data)
                        row += 1

    def read(self, locations: Collection[str]) -> Iterator[tuple[str, bytes]]:
        rows_of: dict[str, list[int]] = defaultdict(list)
        for location in locations:
            table, row = location.rsplit("#", 1)
            rows_of[table].append(int(row))
        for table, rows in sorted(rows_of.items()):
            for number, data in self._read_rows(table, np.sort(rows)):
                yield f"{table}#{number}", data

    def _read_rows(self, table: str, rows: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        with self._opened(table) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            rows = rows[rows < starts[-1]]
            for group in np.unique(np.searchsorted(starts, rows, side="right") - 1):
                start = int(starts[group])
                for batch in file.iter_batches(BATCH_SIZE, row_groups=[int(group)], columns=[self.image_column]):
                    wanted = rows[(rows >= start) & (rows < start + batch.num_rows)]
                    images = self._images(batch.take(pa.array(wanted - start)))
                    yield from zip(wanted.tolist(), images, strict=True)
                    start += batch.num_rows

    def _columns(self) -> list[str]:
        return [self.image_column, *([] if self.label_column is None else [self.label_column])]

    def _images(self, batch: Any) -> list[bytes]:
        column = batch.column(self.image_column)
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")
        return [data or b"" for data in column.to_pylist()]

    def _labels(self, batch: Any) -> list[int | None]:
        labels: list[int | None] = (
            [None] * batch.num_rows if self.label_column is None else batch.column(self.label_column).to_pylist()
        )
        return labels

    def _check_label(self, label: int | None, location: str) -> None:
        if label is not None and not 0 <= label < len(self.classes):
            raise CorpusError(
                f"{join(self.uri, location)}: {self.label_column} is {label}, expected 0 to {len(self.classes) - 1} "
                "or null. Correct the label, or the list at corpus.classes_uri."
            )

    @contextmanager
    def _opened(self, location: str) -> Iterator[Any]:
        where = join(self.uri, location)
        try:
            with self.files.open(location) as handle, pq.ParquetFile(handle) as file:
                _check_columns(file.schema_arrow, self, where)
                yield file
        except pa.ArrowInvalid as error:
            raise CorpusError(f"{where}: not a readable Parquet file: {error}.") from error


def open_parquet(config: ParquetCorpus) -> ParquetSource:
    """List the Parquet files at `config.uri` (one file, or a folder) once.

    Raises:
        CorpusError: no files or rows, a column that is missing or of another type, an invalid list of classes.
    """
    files, roots = SourceFiles(config.uri), split_roots(config.split)
    if files.is_file() and roots == [(None, "")]:
        parent, name = config.uri.rsplit("/", 1) if "/" in config.uri else (".", config.uri)
        files, roots = SourceFiles(parent), [(None, name)]
    entries: list[Entry] = []
    tables: list[_Table] = []
    num_other_files = 0
    for split_name, root in roots:
        found = files.entries(root)
        parquet = [entry for entry in found if entry.location.endswith(SUFFIX)]
        if not parquet:
            raise CorpusError(f"{join(files.uri, root)}: no {SUFFIX} files among its {len(found)} visible files.")
        entries += parquet
        tables += [_Table(location=entry.location, split=split_name) for entry in parquet]
        num_other_files += len(found) - len(parquet)
    class_names = None if config.classes_uri is None else _read_classes(config.classes_uri)
    source = ParquetSource(
        files=files,
        entries=tuple(sorted(entries, key=lambda entry: entry.location)),
        tables=tuple(tables),
        image_column=config.image_column,
        label_column=config.label_column,
        class_names=class_names,
        num_other_files=num_other_files,
    )
    if source.num_samples == 0:
        raise CorpusError(f"{config.uri}: no rows in its {len(tables)} {SUFFIX} files.")
    return source


def _check_columns(schema: Any, source: ParquetSource, where: str) -> None:
    wanted = {"corpus.image_column": source.image_column, "corpus.label_column": source.label_column}
    for setting, name in wanted.items():
        if name is not None and name not in schema.names:
            null = ", or null for none" if setting == "corpus.label_column" else ""
            raise CorpusError(
                f"{where}: no column {name!r}; it has {', '.join(schema.names)}. Set {setting} to one of them{null}."
            )
    image_type = schema.field(source.image_column).type
    if not _holds_bytes(image_type):
        raise CorpusError(
            f"{where}: column {source.image_column!r} holds {image_type}, expected encoded images as binary or as a "
            "struct with a binary field `bytes`. Set corpus.image_column to such a column."
        )
    if source.label_column is not None and not pa.types.is_integer(schema.field(source.label_column).type):
        raise CorpusError(
            f"{where}: column {source.label_column!r} holds {schema.field(source.label_column).type}, expected "
            "integers. Set corpus.label_column to such a column, or to null."
        )


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_classes(uri: str) -> tuple[str, ...]:
    parent, name = uri.rsplit("/", 1) if "/" in uri else (".", uri)
    try:
        names = json.loads(SourceFiles(parent).read(name))
    except ValueError as error:
        raise CorpusError(f"{uri}: not JSON ({error}). corpus.classes_uri needs a JSON list of class names.") from error
    if not _are_class_names(names):
        raise CorpusError(f"{uri}: expected a JSON list of distinct class names, got {str(names)[:80]}.")
    return tuple(names)


def _are_class_names(names: Sequence[object]) -> bool:
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return is_list and len(set(names)) == len(names) > 0
