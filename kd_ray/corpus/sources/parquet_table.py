"""One Parquet file of images, open: its row groups, and what their rows are as inputs."""

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.config.corpus import ParquetSection
from kd_ray.corpus.source import Input, Rejected
from kd_ray.corpus.sources.annotations import parse_boxes, parse_polygons
from kd_ray.corpus.sources.containers import BadInput, Labels
from kd_ray.corpus.sources.files import SourceFiles
from kd_ray.corpus.sources.image_paths import Unusable, read_images, resolve
from kd_ray.corpus.sources.parquet_columns import Row, check_columns, columns, declared_names, paths_are_columns, rows
from kd_ray.corpus.sources.ranges import open_ranges

# What pyarrow raises on files that are no Parquet, or damaged; a StorageError is an OSError, too, but no damage.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)

BATCH_ROWS = 32
BUFFER_BYTES = 8 << 20  # of each column while a row group is read: one GET on S3


@dataclass(frozen=True, kw_only=True)
class Table:
    """An open Parquet file with the columns that its section names."""

    location: str
    section: ParquetSection
    files: SourceFiles
    size_bytes: int
    file: Any

    @property
    def declared_names(self) -> tuple[str, ...]:
        """The class names that its own schema declares."""
        return declared_names(self.file.schema_arrow, self.section)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of every row group, and the number of all rows."""
        metadata = self.file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(sizes, default=0) < 0:
            raise pa.ArrowInvalid("a row group with a negative number of rows")
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def group_bytes(self, group: int) -> int:
        """The size of a row group, before compression, which images hardly know.

        The exact size of the columns that are read is not asked for: pyarrow (26) ends the process over column metadata
        that contradict themselves, as a damaged footer's may.
        """
        size: int = self.file.metadata.row_group(group).total_byte_size
        return min(max(size, 0), self.size_bytes)

    def batches(self, group: int) -> Iterator[Any]:
        """The rows of a row group, few at a time."""
        wanted = columns(self.section)
        yield from self.file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False)

    def inputs(self, batch: Any, numbers: Sequence[int], *, labels: Labels, run: int = 0) -> Iterator[Input | Rejected]:
        """The rows of a batch, each with its number in the file."""
        found = list(rows(batch, self.section))
        images = self._images(found)
        for row, data, number in zip(found, images, numbers, strict=True):
            where = f"{self.location}#{number}"
            try:
                if isinstance(data, Unusable):
                    location = f"{where} {data.shown}" if data.shown else where
                    yield Rejected(location=location, reason=data.reason, size_bytes=0)
                else:
                    yield _input(row, data, where=where, labels=labels, run=run)
            except BadInput as error:
                yield Rejected(location=where, reason=error.reason, size_bytes=len(row.data or b""))

    def _images(self, found: Sequence[Row]) -> list[bytes | Unusable]:
        is_beside = paths_are_columns(self.file.schema_arrow, self.section)
        folder = posixpath.dirname(self.location) if is_beside else ""
        elsewhere = [
            Unusable("no_image") if row.path is None else resolve(row.path, folder=folder, files=self.files)
            for row in found
            if row.data is None
        ]
        read = iter(read_images(self.files, elsewhere))
        return [next(read) if row.data is None else row.data for row in found]


@contextmanager
def opened(location: str, *, size_bytes: int, section: ParquetSection, files: SourceFiles) -> Iterator[Table]:
    """The Parquet file at `location`.

    Raises:
        OtherColumns: a column is missing, or of a type that it cannot have.
        FileNotFoundError, PermissionError: as the file system has it.
        DAMAGE: the file is no Parquet, or damaged.
    """
    with (
        open_ranges(files, location, size_bytes=size_bytes) as stored,
        pq.ParquetFile(stored, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        check_columns(file.schema_arrow, section, where=files.where(location))
        yield Table(location=location, section=section, files=files, size_bytes=size_bytes, file=file)


def _input(row: Row, data: bytes, *, where: str, labels: Labels, run: int) -> Input:
    try:
        boxes, polygons = parse_boxes(_text(row.boxes)), parse_polygons(_text(row.polygons))
        caption = _text(row.caption)
    except ValueError as error:
        raise BadInput("bad_annotation") from error
    assert caption is None or isinstance(caption, str), "the column's type was checked"
    return Input(
        location=where,
        locator=where,
        run=run,
        data=data,
        label=labels.name_of(_label(row.label)),
        mask=row.mask,
        boxes=boxes,
        polygons=polygons,
        caption=caption,
    )


def _label(value: object) -> object:
    try:
        return _text(value)
    except ValueError as error:
        raise BadInput("bad_label") from error


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
