"""Images named by the rows of CSV, TSV or JSONL files: paths below a folder, or whole URLs."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from kd_ray.config.corpus import ListingSection, Split
from kd_ray.corpus.source import Entry, Extent, Input, Reason, Rejected, SplitName
from kd_ray.corpus.sources.annotations import parse_boxes, parse_polygons, read_class_names
from kd_ray.corpus.sources.containers import (
    REJECTED_PER_EXTENT,
    BadInput,
    Labels,
    OtherColumns,
    is_text,
    rejected_extent,
    rejected_of,
    unreachable,
)
from kd_ray.corpus.sources.extents import FILES_PER_EXTENT
from kd_ray.corpus.sources.files import SourceFiles, beside, in_batches, read_ahead, split_roots, walk_splits
from kd_ray.corpus.sources.image_paths import Unusable, read_url, resolve
from kd_ray.corpus.sources.listing_rows import Row, format_of, read_header, read_rows, read_some_rows
from kd_ray.corpus.sources.pattern import is_pattern
from kd_ray.errors import CorpusError, StorageError
from kd_ray.storage import is_remote, join, redacted
from kd_ray.storage.base import canonical_json

# A request for one row costs about as much as this much of the whole listing.
BYTES_PER_REQUEST = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meant:
    """An input without its bytes; `image` and `mask` are locations below the images, or URLs."""

    shown: Input
    image: str
    mask: str | None


@dataclass(frozen=True, kw_only=True)
class ListingSource:
    """A `Source` of the rows of listings: the file `uri`, or below it one file (or a pattern) a split.

    A locator is where in its listing the row is, since a row may hold more than a name, and a URL a signature.
    Images on this machine are looked at when they are listed, so that an extent changes when they do; others are not.
    """

    section: ListingSection
    split: Split

    @property
    def uri(self) -> str:
        return self.section.uri

    @property
    def is_sequential(self) -> bool:
        return False

    @property
    def _files(self) -> SourceFiles:
        return beside(self.section.uri, self.section.access)

    def class_names(self) -> tuple[str, ...]:
        uri = self.section.classes_uri
        return () if uri is None else read_class_names(uri, self.section.access)

    def extents(self) -> Iterator[Extent]:
        for split, root, found in walk_splits(self._files, self.split):
            yield from self._of_pattern(found, split) if is_pattern(root) else self._of_file(found, root, split)

    def _of_file(self, found: Iterator[Entry | Rejected], root: str, split: SplitName | None) -> Iterator[Extent]:
        """The extents of the listing that the recipe names."""
        entry = next(found, None)
        if isinstance(entry, Rejected):
            raise StorageError(f"{self._files.where(entry.location)}: cannot be read: {entry.reason}.")
        if entry is None or entry.location != root:
            raise CorpusError(
                f"{self._files.where(root)}: is a folder. corpus.uri, or the paths of corpus.split where its kind "
                "is paths, must name CSV or JSONL files."
            )
        try:
            yield from self._extents_of(root, split)
        except (FileNotFoundError, PermissionError) as error:
            reason = unreachable(error, root, 0).reason
            raise StorageError(f"{self._files.where(root)}: cannot be read: {reason}.") from error

    def _of_pattern(self, found: Iterator[Entry | Rejected], split: SplitName | None) -> Iterator[Extent]:
        """The extents of all listings of a split, those of no use rejected, unless all of them are."""
        made: list[Extent] | Rejected
        rejected: list[Rejected] = []
        errors: list[CorpusError] = []
        is_any_used = False
        for entry in found:
            made = entry if isinstance(entry, Rejected) else self._made(entry, split, errors)
            if isinstance(made, Rejected):
                rejected.append(made)
            else:
                is_any_used = True
                yield from made
            if len(rejected) == REJECTED_PER_EXTENT:
                yield rejected_extent(rejected, split)
                rejected = []
        if errors and not is_any_used:
            raise errors[0]
        if not is_any_used:
            named = ", ".join(f"{each.location} ({each.reason})" for each in rejected[:3])
            raise StorageError(f"{self._files.where('')}: none of the listings can be read: {named}.")
        if rejected:
            yield rejected_extent(rejected, split)

    def _made(self, entry: Entry, split: SplitName | None, errors: list[CorpusError]) -> list[Extent] | Rejected:
        """The extents of one listing of several: all at once, because that it has other columns may show at its end."""
        try:
            return list(self._extents_of(entry.location, split))
        except (FileNotFoundError, PermissionError) as error:
            return unreachable(error, entry.location, entry.size_bytes)
        except (OtherColumns, _NoListing) as error:
            errors.append(error)
            return Rejected(location=entry.location, reason=_reason_of(error), size_bytes=entry.size_bytes)

    def scan(self, extent: Extent) -> Iterator[Input | Rejected]:
        if (rejected := rejected_of(extent)) is not None:
            return iter(rejected)
        place = json.loads(extent.payload)
        listing = place["listing"]
        raw = self._files.read_range(listing, place["start"], place["stop"])
        rows = self._some_rows(raw, listing, place["header"], is_first=place["start"] == 0)
        placed = (replace(row, start=row.start + place["start"], line=row.line + place["line"] - 1) for row in rows)
        return self._filled(placed, listing)

    def fetch(self, locators: Sequence[str]) -> Iterator[Input]:
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for locator in locators:
            start, stop, listing = locator.split(":", 2)
            spans[listing].append((int(start), int(stop)))
        for listing, wanted in spans.items():
            for each in self._filled(self._rows_at(listing, wanted), listing):
                if isinstance(each, Rejected):
                    raise CorpusError(
                        f"{each.location}: {each.reason}, though it was there when the source was scanned. "
                        "Let the source rest, then pack again."
                    )
                yield each

    def _extents_of(self, listing: str, split: SplitName | None) -> Iterator[Extent]:
        where, images = self._files.where(listing), self._images(listing)
        header, rows = self._opened(listing)
        if header:
            self._check_columns(header, where)
            self._check_names(header, where)
        seen: dict[str, None] = {}  # a set in the order of the columns
        first_problem = ""
        for batch in in_batches(rows, FILES_PER_EXTENT):
            good = [row for row in batch if row.problem is None]
            if len(good) < len(batch) and not first_problem:
                bad = next(row for row in batch if row.problem is not None)
                first_problem = f"{where}, line {bad.line}: {bad.problem}."
            seen |= dict.fromkeys(name for row in good for name in row.values)
            yield self._extent(batch, listing, header, images, split)
        if not seen and first_problem:
            raise _BadRows(first_problem)
        if not seen:
            raise _NoRows(f"{where}: no rows. corpus.uri must name a listing with a row for each image.")
        self._check_columns(header or seen, where)

    def _opened(self, listing: str) -> tuple[list[str], Iterator[Row]]:
        where = self._files.where(listing)
        try:
            row_format = format_of(listing or self.uri, where=where)
        except CorpusError as error:
            raise _OtherType(str(error)) from error
        try:
            return read_rows(self._files.lines(listing), row_format, where=where)
        except CorpusError as error:
            raise _BadRows(str(error)) from error

    def _extent(
        self, rows: Sequence[Row], listing: str, header: Sequence[str], images: SourceFiles, split: SplitName | None
    ) -> Extent:
        digest = hashlib.sha256(canonical_json([listing, images.uri, header]))
        num_bytes = 0
        for row in rows:
            digest.update(row.raw)
            for column in (self.section.image_column, self.section.mask_column):
                found = _looked_at(row.values.get(column or ""), images)
                if found is not None:
                    num_bytes += found.size_bytes
                    digest.update(f"{found.size_bytes} {found.version}\n".encode())
        place = {
            "listing": listing,
            "line": rows[0].line,
            "start": rows[0].start,
            "stop": rows[-1].start + len(rows[-1].raw),
            "header": header,
        }
        return Extent(
            split=split,
            num_inputs=len(rows),
            num_bytes=num_bytes,
            digest=digest.hexdigest(),
            payload=canonical_json(place),
        )

    def _check_columns(self, seen: Iterable[str], where: str) -> None:
        for setting, name in self._columns.items():
            if name not in seen:
                null = "" if setting == "image_column" else ", or null for none"
                raise OtherColumns(
                    f"{where}: no column {name!r}; it has {', '.join(map(str, seen))[:200]}. "
                    f"Set corpus.{setting} to one of them{null}."
                )

    def _check_names(self, header: Sequence[str], where: str) -> None:
        for setting, name in self._columns.items():
            if header.count(name) > 1:
                raise OtherColumns(
                    f"{where}: {header.count(name)} columns {name!r} in its header, which corpus.{setting} names. "
                    "Rename all but one."
                )

    @cached_property
    def _columns(self) -> dict[str, str]:
        """The columns that are read, by their settings."""
        named = self.section.model_dump().items()
        return {setting: name for setting, name in named if setting.endswith("_column") and name is not None}

    def _images(self, listing: str) -> SourceFiles:
        uri = self.section.images_uri
        if uri is None:
            folder, slash, _ = (join(self.uri, listing) if listing else self.uri).rpartition("/")
            uri = (folder or slash) if slash else "."
        return beside(uri, self.section.access)

    def _some_rows(self, raw: bytes, listing: str, header: Sequence[str], *, is_first: bool) -> Iterator[Row]:
        row_format = format_of(listing or self.uri, where=self._files.where(listing))
        return read_some_rows(raw, row_format, header=header, is_first=is_first)

    def _rows_at(self, listing: str, spans: Sequence[tuple[int, int]]) -> Iterator[Row]:
        files = self._files
        where = files.where(listing)
        header = read_header(files.lines(listing), format_of(listing or self.uri, where=where), where=where)
        size_bytes = next(each.size_bytes for each in files.walk(listing))
        pieces: Iterable[tuple[tuple[int, int], bytes]]
        if not is_remote(files.uri):
            pieces = ((span, files.read_range(listing, *span)) for span in spans)
        elif size_bytes > len(spans) * BYTES_PER_REQUEST:
            pieces = read_ahead(lambda span: files.read_range(listing, *span), spans)
        else:
            whole = files.read(listing)
            pieces = ((span, whole[slice(*span)]) for span in spans)
        for span, raw in pieces:
            rows = list(self._some_rows(raw, listing, header, is_first=span[0] == 0))
            if len(rows) != 1 or rows[0].problem is not None:
                raise CorpusError(f"{where}: changed since it was scanned. Let the source rest, then pack again.")
            yield replace(rows[0], start=span[0])

    def _meant(self, row: Row, listing: str, images: SourceFiles, labels: Labels) -> _Meant | Rejected:
        is_short = any(name in row.missing for name in self._columns.values())
        if row.problem is not None or is_short:
            where = f"{self._files.where(listing)}#{row.line}"
            return Rejected(location=where, reason="bad_row", size_bytes=len(row.raw))
        value = self._value(row, "image_column")
        location = _shown(value) if isinstance(value, str) else f"{self._files.where(listing)}#{row.line}"
        try:
            image = _place(value, images)
            mask = self._value(row, "mask_column")
            shown = Input(
                location=location,
                locator=f"{row.start}:{row.start + len(row.raw)}:{listing}",
                data=b"",
                label=_label(self._value(row, "label_column"), labels),
                boxes=_annotations(parse_boxes, self._value(row, "boxes_column")),
                polygons=_annotations(parse_polygons, self._value(row, "polygons_column")),
                caption=_caption(self._value(row, "caption_column")),
            )
            return _Meant(
                shown=shown, image=image, mask=None if _is_none(mask) else _place(mask, images, otherwise="bad_mask")
            )
        except BadInput as error:
            return Rejected(location=location, reason=error.reason, size_bytes=0)

    def _value(self, row: Row, setting: str) -> object:
        column = getattr(self.section, setting)
        return None if column is None else row.values.get(column)

    def _filled(self, rows: Iterable[Row], listing: str) -> Iterator[Input | Rejected]:
        labels, images = Labels(self.class_names()), self._images(listing)
        meant = [self._meant(row, listing, images, labels) for row in rows]
        places = [
            place
            for each in meant
            if isinstance(each, _Meant)
            for place in (each.image, each.mask)
            if place is not None
        ]
        contents = self._read_each(places, images)
        for each in meant:
            if isinstance(each, Rejected):
                yield each
                continue
            data = next(contents)
            mask = None if each.mask is None else next(contents)
            if isinstance(data, Rejected):
                yield replace(data, location=each.shown.location)
            elif isinstance(mask, Rejected):
                yield replace(mask, location=each.shown.location)
            else:
                yield replace(each.shown, data=data, mask=mask)

    def _read_each(self, places: Sequence[str], images: SourceFiles) -> Iterator[bytes | Rejected]:
        if any("://" in place for place in places):
            return (data for _, data in read_ahead(lambda place: self._read(place, images), places))
        return (data for _, data in images.read_each(places))

    def _read(self, place: str, images: SourceFiles) -> bytes | Rejected:
        if "://" not in place:
            return images.read_or_refuse(place)
        data = read_url(place, self.section.access)
        return Rejected(location=place, reason=data.reason, size_bytes=0) if isinstance(data, Unusable) else data


class _NoListing(CorpusError):
    """A file that cannot be used as a listing; one of several is rejected."""


class _OtherType(_NoListing):
    """By its name."""


class _NoRows(_NoListing):
    """It has none."""


class _BadRows(_NoListing):
    """None of its lines, or not its header, is of the format."""


def _reason_of(error: OtherColumns | _NoListing) -> Reason:
    match error:
        case OtherColumns():
            return "other_columns"
        case _OtherType():
            return "other_type"
        case _NoRows():
            return "empty"
    return "bad_row"


def open_listing(section: ListingSection, *, split: Split) -> ListingSource:
    """The listing that `section` describes; nothing is read yet.

    Raises:
        CorpusError: the splits overlap, a suffix that no listing has, or access settings that cannot be.
    """
    for _, root in split_roots(split):
        location = root or redacted(section.uri)
        if not is_pattern(root):
            format_of(location, where=redacted(join(section.uri, root) if root else section.uri))
    return ListingSource(section=section, split=split)


def _place(value: object, images: SourceFiles, *, otherwise: Reason = "no_image") -> str:
    if not isinstance(value, str):
        raise BadInput(otherwise)
    # surrogates, which JSON can hold, become bytes that are no text
    place = resolve(value.encode("utf-8", "surrogatepass"), folder="", files=images)
    if isinstance(place, Unusable):
        raise BadInput(place.reason)
    return place


def _looked_at(value: object, images: SourceFiles) -> Entry | None:
    try:
        place = _place(value, images)
    except BadInput:
        return None
    found = None if "://" in place else images.look(place)
    return found if isinstance(found, Entry) else None


def _shown(value: str) -> str:
    return redacted(value.encode("utf-8", "backslashreplace").decode())


def _is_none(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _label(value: object, labels: Labels) -> str | None:
    """A class by name or number; in CSV numbers are text, and a name may look like one."""
    if _is_none(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = re.sub(r"^(-?[0-9]{1,18})\.0+$", r"\1", value.strip())  # pandas writes whole numbers with gaps as 1.0
    is_number = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value) is not None
    if is_number and value not in labels.names and (labels.names or str(value).startswith("-")):
        value = int(str(value))
    return labels.name_of(value)


def _annotations(parse: Callable[[object], T], value: object) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise BadInput("bad_annotation") from error


def _caption(value: object) -> str | None:
    if _is_none(value):
        return None
    if not isinstance(value, str) or not is_text(value):
        raise BadInput("bad_annotation")
    return value
