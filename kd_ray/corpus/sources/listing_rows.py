"""The rows of CSV, TSV and JSONL files, each with the bytes that it was read from.

A line that is not of the format is a row with a problem, and reading goes on with the line after it.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from kd_ray.errors import CorpusError

RowFormat = Literal["csv", "tsv", "jsonl"]
FORMATS: Mapping[str, RowFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MARK = b"\xef\xbb\xbf"  # the byte order mark that spreadsheets write
MAX_LINES_PER_ROW = 256  # an unclosed quote must not make one row of all that follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: `raw` are its bytes from `start` on, `line` counts from 1; every column of a header has a value.

    With a `problem` it is a line that cannot be read, and has no values.
    """

    start: int
    line: int
    raw: bytes
    values: Mapping[str, object]
    problem: str | None = None


def format_of(location: str, *, where: str) -> RowFormat:
    """The format that the suffix tells.

    Raises:
        CorpusError: another suffix.
    """
    for suffix, known in FORMATS.items():
        if location.lower().endswith(suffix):
            return known
    raise CorpusError(f"{where}: no listing by its name; expected one ending in {' '.join(FORMATS)}.")


def read_header(lines: Iterable[bytes], row_format: RowFormat, *, where: str) -> list[str]:
    """The column names of a CSV or TSV file; empty for JSONL, whose rows have their own.

    Raises:
        CorpusError: the first line is not of the format.
    """
    return [] if row_format == "jsonl" else _header(_Lines(lines), row_format, where=where)


def read_rows(lines: Iterable[bytes], row_format: RowFormat, *, where: str) -> Iterator[Row]:
    """All rows of a listing in order.

    Raises:
        CorpusError: the header is not of the format.
    """
    read = _Lines(lines)
    if row_format == "jsonl":
        return _json_rows(read)
    return _csv_rows(read, row_format, _header(read, row_format, where=where))


def read_some_rows(raw: bytes, row_format: RowFormat, *, header: Sequence[str]) -> Iterator[Row]:
    """The rows of a piece of a listing; `start` and `line` are within the piece."""
    read = _Lines(io.BytesIO(raw))
    return _json_rows(read) if row_format == "jsonl" else _csv_rows(read, row_format, header)


class _BadLine(ValueError):
    """A line that ends a row before its end."""


class _Lines:
    """Decoded lines, counted; those taken since the last row can be given back."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._again: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self._start = 0
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        self.number += 1
        if len(self._taken) > MAX_LINES_PER_ROW:
            raise _BadLine(f"a row of more than {MAX_LINES_PER_ROW} lines")
        try:
            return (line.removeprefix(MARK) if self.number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise _BadLine(f"not UTF-8 ({error.reason}). Save the listing as UTF-8") from error

    def row(self, values: Mapping[str, object]) -> Row:
        """The row of all lines taken since the last one."""
        raw, line = b"".join(self._taken), self.number - len(self._taken) + 1
        row = Row(start=self._start, line=line, raw=raw, values=values)
        self._start += len(raw)
        self._taken = []
        return row

    def bad_row(self, problem: str) -> Row:
        """The first line taken since the last row; those after it are given back."""
        first, *rest = self._taken
        self._again.extendleft(reversed(rest))
        self.number -= len(rest)
        row = Row(start=self._start, line=self.number, raw=first, values={}, problem=problem)
        self._start += len(first)
        self._taken = []
        return row


def _header(lines: _Lines, row_format: RowFormat, *, where: str) -> list[str]:
    try:
        header = next(_reader(lines, row_format), [])
    except (csv.Error, _BadLine) as error:
        raise CorpusError(f"{where}, line {lines.number}: {_problem(error)}.") from error
    lines.row({})
    return header


def _csv_rows(lines: _Lines, row_format: RowFormat, header: Sequence[str]) -> Iterator[Row]:
    reader = _reader(lines, row_format)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except (csv.Error, _BadLine) as error:
            yield lines.bad_row(_problem(error))
            continue
        if any(values[len(header) :]):
            yield lines.bad_row(f"more cells than the {len(header)} columns. Quote values that hold the delimiter")
            continue
        row = lines.row({name: value or None for name, value in zip_longest(header, values[: len(header)])})
        if values:  # an empty line is none
            yield row


def _reader(lines: _Lines, row_format: RowFormat) -> Iterator[list[str]]:
    # strict: else what follows a closed quote would be taken as part of the value
    return csv.reader(lines, delimiter="\t" if row_format == "tsv" else ",", strict=True)


def _problem(error: Exception) -> str:
    if isinstance(error, _BadLine):
        return str(error)
    return f"cannot be read as CSV ({error}). Quote the value, or use JSONL"


def _json_rows(lines: _Lines) -> Iterator[Row]:
    while True:
        try:
            text = next(lines)
            if not text.strip():
                lines.row({})
                continue
            values = json.loads(text)
        except StopIteration:
            return
        except _BadLine as error:
            yield lines.bad_row(str(error))
            continue
        except (ValueError, RecursionError) as error:
            yield lines.bad_row(f"not JSON ({error})")
            continue
        if isinstance(values, dict):
            yield lines.row(values)
        else:
            yield lines.bad_row(f"expected a JSON object with a value for each column, got {text.strip()[:40]}")
