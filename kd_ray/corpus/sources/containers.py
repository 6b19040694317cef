"""What tars and Parquet files have in common: finding them, rejecting what lies beside them, naming their labels."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from kd_ray.config.corpus import SourceSection, Split
from kd_ray.corpus.source import Entry, Extent, Reason, Rejected, SplitName
from kd_ray.corpus.sources.files import SourceFiles, split_roots, walk_splits
from kd_ray.errors import CorpusError
from kd_ray.storage.base import canonical_json, digest_of_json
from kd_ray.storage.redact import redacted

REJECTED_PER_EXTENT = 2_048

Cut = Callable[[Entry, SplitName | None], Iterable[Extent | Rejected]]


class BadInput(CorpusError):
    """A part of a sample that cannot be used; never leaves its source, which makes it a `Rejected`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class OtherColumns(CorpusError):
    """A table without the columns that a section names, or with others of their names."""


@dataclass(frozen=True, kw_only=True)
class Containers:
    """The files of a source with their splits; `only` names the one file that it is, within its parent `files`."""

    uri: str
    files: SourceFiles
    split: Split
    only: str | None
    suffix: str

    def walk(self) -> Iterator[tuple[SplitName | None, str, Iterator[Entry | Rejected]]]:
        """Every split with its root and its files, those of another suffix rejected; each before the next one."""
        if self.only is not None:
            alone = SourceFiles(self.uri, self.files.access).walk("")
            yield None, "", (self._checked(replace(each, location=self.only)) for each in alone)
            return
        for split, root, found in walk_splits(self.files, self.split):
            yield split, root, map(self._checked, found)

    def _checked(self, each: Entry | Rejected) -> Entry | Rejected:
        if isinstance(each, Rejected) or self.is_container(each):
            return each
        return Rejected(location=each.location, reason="other_type", size_bytes=each.size_bytes)

    def is_container(self, each: Entry | Rejected) -> bool:
        """Whether the name is that of a container, usable or not."""
        return each.location.lower().endswith(self.suffix)

    def extents(self, cut: Cut) -> Iterator[Extent]:
        """What `cut` makes of every container, and extents of all that is rejected.

        Raises:
            CorpusError: a split has no container, or nothing can be made of any of them.
            OtherColumns: none of the tables has the columns.
        """
        num_made = 0
        misfits: list[OtherColumns] = []
        for split, root, found in self.walk():
            num_found = num_others = 0
            rejected: list[Rejected] = []
            for each in found:
                num_found += self.is_container(each)
                num_others += not self.is_container(each)
                for made in _made(each, split, cut, misfits):
                    num_made += isinstance(made, Extent) or (self.is_container(made) and made.reason != "other_columns")
                    if isinstance(made, Extent):
                        yield made
                    else:
                        rejected.append(made)
                if len(rejected) >= REJECTED_PER_EXTENT:
                    yield rejected_extent(rejected, split)
                    rejected = []
            if not num_found:
                raise CorpusError(
                    f"{self.files.where(root)}: no {self.suffix} files among its {num_others} visible files. "
                    "Check corpus.uri, and corpus.split where its kind is paths."
                )
            if rejected:
                yield rejected_extent(rejected, split)
        if not num_made and misfits:
            raise misfits[0]
        if not num_made:
            raise CorpusError(f"{redacted(self.uri)}: no samples in its {self.suffix} files. Check corpus.uri.")


def locate(section: SourceSection, split: Split, *, suffix: str) -> Containers:
    """Where the containers of a source are.

    Raises:
        CorpusError: the split's paths leave the source or overlap.
        StorageError: the location cannot be looked at.
    """
    files, only = SourceFiles(section.uri, section.access), None
    if split_roots(split) == [(None, "")] and files.is_file():
        parent, slash, only = section.uri.rstrip("/").rpartition("/")
        files = SourceFiles((parent or slash) if slash else ".", section.access)
    return Containers(uri=section.uri, files=files, split=split, only=only, suffix=suffix)


def size_of(files: SourceFiles, container: Entry) -> int:
    """Its size, asked for where the listing does not tell it (HTTP)."""
    if container.size_bytes:
        return container.size_bytes
    with files.open(container.location) as file:
        return file.seek(0, io.SEEK_END)


def _made(
    each: Entry | Rejected, split: SplitName | None, cut: Cut, misfits: list[OtherColumns]
) -> Iterator[Extent | Rejected]:
    if isinstance(each, Rejected):
        yield each
        return
    try:
        yield from cut(each, split)
    except (FileNotFoundError, PermissionError) as error:
        yield unreachable(error, each.location, each.size_bytes)
    except OtherColumns as error:
        misfits.append(error)
        yield Rejected(location=each.location, reason="other_columns", size_bytes=each.size_bytes)


def rejected_extent(rejected: Sequence[Rejected], split: SplitName | None) -> Extent:
    """An extent whose scan gives just these."""
    rows = [[each.location, each.reason, each.size_bytes] for each in rejected]
    return Extent(
        split=split,
        num_inputs=len(rows),
        num_bytes=sum(each.size_bytes for each in rejected),
        digest=digest_of_json(rows),
        payload=canonical_json({"rejected": rows}),
    )


def rejected_of(extent: Extent) -> list[Rejected] | None:
    """What an extent of rejected files holds; None for one of another kind."""
    rows = json.loads(extent.payload).get("rejected")
    if rows is None:
        return None
    return [Rejected(location=location, reason=reason, size_bytes=size) for location, reason, size in rows]


def unreachable(error: OSError, location: str, size_bytes: int) -> Rejected:
    """A container that was listed but cannot be opened."""
    reason: Reason = "permission_denied" if isinstance(error, PermissionError) else "missing"
    return Rejected(location=location, reason=reason, size_bytes=size_bytes)


def changed(files: SourceFiles, location: str, why: str) -> CorpusError:
    """The error of an input that `fetch` does not find as `scan` left it."""
    return CorpusError(
        f"{files.where(location)}: {why}, though it was there when the source was scanned. "
        "Let the source rest, then pack again."
    )


@dataclass(frozen=True)
class Labels:
    """From labels as they are stored to class names; `names` is what the source declares, or empty."""

    names: tuple[str, ...]

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def name_of(self, label: object) -> str | None:
        """The class of a number or a name; None for null and for negative numbers.

        Raises:
            BadInput: another type, no text, or no declared class.
        """
        if isinstance(label, str):
            if not label or (self.names and label not in self._known) or not is_text(label):
                raise BadInput("bad_label")
            return label
        if label is None or (isinstance(label, int) and not isinstance(label, bool) and label < 0):
            return None
        if not isinstance(label, int) or isinstance(label, bool) or (self.names and label >= len(self.names)):
            raise BadInput("bad_label")
        return self.names[label] if self.names else str(label)


def is_text(value: str) -> bool:
    """Whether `value` can be stored: JSON and file names can hold surrogates that UTF-8 has no bytes for."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
