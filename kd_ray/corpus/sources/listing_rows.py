"""The rows of CSV, TSV and JSONL files, each with the bytes that it was read from.

A line that is not of the format is a row with a problem, and reading goes on with the line after it.
"""

import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec
from typing import Any, Literal

from kd_ray.errors import CorpusError

RowFormat = Literal["csv", "tsv", "jsonl"]
FORMATS: Mapping[str, RowFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MARK = b"\xef\xbb\xbf"  # the byte order mark that spreadsheets write
MAX_LINES_PER_ROW = 256  # an unclosed quote must not make one row of all that follows
MAX_CELL_CHARACTERS = 16 << 20  # polygons of a crowd take hundreds of kB; the standard library's limit is 128 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: `raw` are its bytes from `start` on, `line` counts from 1.

    `missing` are the columns of a header that it ends before: they have no values, where empty cells have None. With a
    `problem` it is a line that cannot be read, and has no values at all.
    """

    start: int
    line: int
    raw: bytes
    values: Mapping[str, object]
    missing: Sequence[str] = ()
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
    """The column names of a CSV or TSV file as they are, repeated and empty ones too; none for JSONL, whose rows have
    their own.

    Raises:
        CorpusError: the first line is not of the format.
    """
    return [] if row_format == "jsonl" else _header(_Lines(lines), row_format, where=where)


def read_rows(lines: Iterable[bytes], row_format: RowFormat, *, where: str) -> tuple[list[str], Iterator[Row]]:
    """The header of a listing as `read_header` gives it, and all rows in order.

    Raises:
        CorpusError: the header is not of the format.
    """
    read = _Lines(lines)
    if row_format == "jsonl":
        return [], _json_rows(read)
    header = _header(read, row_format, where=where)
    return header, _csv_rows(read, row_format, header)


def read_some_rows(raw: bytes, row_format: RowFormat, *, header: Sequence[str], is_first: bool) -> Iterator[Row]:
    """The rows of a piece of a listing, its beginning where `is_first`; `start` and `line` are within the piece."""
    read = _Lines(io.BytesIO(raw), has_mark=is_first)
    return _json_rows(read) if row_format == "jsonl" else _csv_rows(read, row_format, header)


class _BadLine(ValueError):
    """A line that ends a row before its end."""


class _Lines:
    """Decoded lines, counted; those taken since the last row can be given back.

    A byte order mark at the beginning is no part of them, unless it is that of a later piece (`has_mark`).
    """

    def __init__(self, lines: Iterable[bytes], *, has_mark: bool = True) -> None:
        self._lines = iter(lines)
        self._has_mark = has_mark
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
            return (line.removeprefix(MARK) if self._has_mark and self.number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise _BadLine(f"not UTF-8 ({error.reason}). Save the listing as UTF-8") from error

    def row(self, values: Mapping[str, object], *, missing: Sequence[str] = ()) -> Row:
        """The row of all lines taken since the last one."""
        raw, line = b"".join(self._taken), self.number - len(self._taken) + 1
        row = Row(start=self._start, line=line, raw=raw, values=values, missing=missing)
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
    parser = _parser()
    try:
        header = next((cells for cells in _reader(parser, lines, row_format) if cells), [])  # an empty line is none
    except (parser.Error, _BadLine) as error:
        raise CorpusError(f"{where}, line {lines.number}: {_problem(error)}.") from error
    lines.row({})
    return header


def _csv_rows(lines: _Lines, row_format: RowFormat, header: Sequence[str]) -> Iterator[Row]:
    parser = _parser()
    reader = _reader(parser, lines, row_format)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (parser.Error, _BadLine) as error:
            yield lines.bad_row(_problem(error))
            continue
        if any(cells[len(header) :]):
            yield lines.bad_row(f"more cells than the {len(header)} columns. Quote values that hold the delimiter")
            continue
        values = {name: cell or None for name, cell in zip(header, cells, strict=False)}
        row = lines.row(values, missing=header[len(cells) :])
        if cells:  # an empty line is none
            yield row


def _reader(parser: Any, lines: _Lines, row_format: RowFormat) -> Iterator[list[str]]:
    # strict: else what follows a closed quote would be taken as part of the value
    reader: Iterator[list[str]] = parser.reader(lines, delimiter="\t" if row_format == "tsv" else ",", strict=True)
    return reader


@cache
def _parser() -> Any:
    """The standard library's parser of CSV with MAX_CELL_CHARACTERS.

    Its limit belongs to the module, and so to everyone in the process: this is another instance of that module, which
    nobody else has.
    """
    spec = find_spec("_csv")
    assert spec is not None, "part of Python"
    assert spec.loader is not None, "part of Python"
    parser = module_from_spec(spec)
    spec.loader.exec_module(parser)
    parser.field_size_limit(MAX_CELL_CHARACTERS)
    return parser


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
