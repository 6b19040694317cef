"""The rows of CSV, TSV and JSONL files, each with the bytes that it was read from."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from kd_ray.errors import CorpusError

RowFormat = Literal["csv", "tsv", "jsonl"]
FORMATS: Mapping[str, RowFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MARK = b"\xef\xbb\xbf"  # the byte order mark that spreadsheets write


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: `raw` are its bytes from `start` on, `line` counts from 1; every column of a header has a value."""

    start: int
    line: int
    raw: bytes
    values: Mapping[str, object]


def format_of(location: str, *, where: str) -> RowFormat:
    """The format that the suffix tells.

    Raises:
        CorpusError: another suffix.
    """
    for suffix, known in FORMATS.items():
        if location.lower().endswith(suffix):
            return known
    raise CorpusError(f"{where}: no listing by its name; expected one ending in {' '.join(FORMATS)}.")


def read_rows(lines: Iterable[bytes], row_format: RowFormat, *, where: str) -> Iterator[Row]:
    """All rows of a listing in order.

    Raises:
        CorpusError: a line that is not of the format.
    """
    return _rows(_Lines(lines, where=where), row_format, header=None)


def read_some_rows(raw: bytes, row_format: RowFormat, *, header: Sequence[str], where: str) -> Iterator[Row]:
    """The rows of a piece of a listing; `start` and `line` are within the piece."""
    return _rows(_Lines(io.BytesIO(raw), where=where), row_format, header=header)


class _Lines:
    """Decoded lines, counted; `taken` are the bytes of those since it was last emptied."""

    def __init__(self, lines: Iterable[bytes], *, where: str) -> None:
        self._lines = iter(lines)
        self.where = where
        self.taken: list[bytes] = []
        self.start = 0
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        self.number += 1
        try:
            return (line.removeprefix(MARK) if self.number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise self.failed(f"not UTF-8 ({error.reason}). Save the listing as UTF-8") from error

    def row(self, values: Mapping[str, object], *, line: int) -> Row:
        """The row of all lines taken since the last one."""
        row = Row(start=self.start, line=line, raw=b"".join(self.taken), values=values)
        self.start += len(row.raw)
        self.taken = []
        return row

    def failed(self, what: str) -> CorpusError:
        return CorpusError(f"{self.where}, line {self.number}: {what}.")


def _rows(lines: _Lines, row_format: RowFormat, *, header: Sequence[str] | None) -> Iterator[Row]:
    match row_format:
        case "csv":
            return _csv_rows(lines, ",", header)
        case "tsv":
            return _csv_rows(lines, "\t", header)
        case "jsonl":
            return _json_rows(lines)
        case _:
            assert_never(row_format)


def _csv_rows(lines: _Lines, delimiter: str, header: Sequence[str] | None) -> Iterator[Row]:
    # strict: else an unclosed quote makes one row of all that follows
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first_line = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise lines.failed(f"cannot be read as CSV ({error}). Quote the value, or use JSONL") from error
        if header is None:
            header = values
        elif values:  # an empty line is none
            given = dict(zip(header, values, strict=False))
            yield lines.row({name: given.get(name) or None for name in header}, line=first_line)
            continue
        lines.row({}, line=first_line)


def _json_rows(lines: _Lines) -> Iterator[Row]:
    for text in lines:
        if not text.strip():
            lines.row({}, line=lines.number)
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise lines.failed(f"not JSON ({error})") from error
        if not isinstance(values, dict):
            raise lines.failed(f"expected a JSON object with a value for each column, got {text.strip()[:40]}")
        yield lines.row(values, line=lines.number)
