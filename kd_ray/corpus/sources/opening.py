"""From a recipe's corpus section to the sources that it describes."""

import os
import posixpath
from dataclasses import dataclass
from itertools import product
from pathlib import PurePath, PurePosixPath
from typing import Any, assert_never

from fsspec.implementations.local import LocalFileSystem

from kd_ray.config.corpus import (
    Corpus,
    DigitsSection,
    FolderSection,
    ListingSection,
    MixtureCorpus,
    ParquetSection,
    SegmentationSection,
    Split,
    WebDatasetSection,
)
from kd_ray.corpus.source import ALONE, Source
from kd_ray.corpus.sources.digits import write_digits
from kd_ray.corpus.sources.folder import open_folder
from kd_ray.corpus.sources.listing import open_listing
from kd_ray.corpus.sources.parquet_source import open_parquet
from kd_ray.corpus.sources.segmentation import open_segmentation
from kd_ray.corpus.sources.webdataset import open_webdataset
from kd_ray.errors import CorpusError
from kd_ray.storage import is_remote, redacted

Section = FolderSection | ParquetSection | ListingSection | WebDatasetSection | SegmentationSection | DigitsSection

REMOTE_ALIASES = {"s3a": "s3", "gcs": "gs"}

# What a recipe may change without the samples being other ones.
NOT_OF_THE_SOURCE = {
    "packed_uri",
    "max_bad_fraction",
    "row_group_size",
    "shard_row_groups",
    "seed",
    "overrides_uri",
    "access",
    "scale_factor",
    "samples_per_file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSource:
    """A source by its name in a mixture; ALONE where it is the only one."""

    name: str
    source: Source


def open_sources(config: Corpus) -> tuple[NamedSource, ...]:
    """The sources of a corpus in the order of the recipe; the digits are written first where they are missing.

    Raises:
        CorpusError: nothing usable is there.
    """
    sections = config.sources if isinstance(config, MixtureCorpus) else {ALONE: config}
    for section in sections.values():
        if _lies_within(config.packed_uri, section.uri):
            raise CorpusError(
                f"{redacted(config.packed_uri)}: corpus.packed_uri lies within the source {redacted(section.uri)}, so "
                "that the packed shards would be packed again. Give another packed_uri."
            )
    return tuple(
        NamedSource(name=name, source=open_source(section, split=config.split)) for name, section in sections.items()
    )


def _lies_within(uri: str, other: str) -> bool:
    """Whether `uri` is `other` or below it, however the two are written."""
    return any(a[: len(b)] == b for a, b in product(_parts(uri), _parts(other)))


def _parts(uri: str) -> list[tuple[str, ...]]:
    """The names on the way to a location: of a local one as it is written, and with all links followed."""
    if is_remote(uri):
        scheme, _, rest = uri.partition("://")
        path = posixpath.normpath("/" + rest.lstrip("/"))
        return [(REMOTE_ALIASES.get(scheme, scheme), *PurePosixPath(path).parts)]
    path = str(LocalFileSystem._strip_protocol(uri))
    return [PurePath(each).parts for each in (os.path.normpath(path), os.path.realpath(path))]


def open_source(section: Section, *, split: Split) -> Source:
    """The source that a section describes.

    Raises:
        CorpusError: as `open_sources`.
    """
    match section:
        case FolderSection():
            return open_folder(section.uri, access=section.access, split=split)
        case ParquetSection():
            return open_parquet(section, split=split)
        case ListingSection():
            return open_listing(section, split=split)
        case WebDatasetSection():
            return open_webdataset(section, split=split)
        case SegmentationSection():
            return open_segmentation(section, split=split)
        case DigitsSection():
            write_digits(section.uri)
            return open_folder(section.uri, access=section.access, split=split)
        case _:
            assert_never(section)


def description(config: Corpus) -> dict[str, Any]:
    """What of a recipe's corpus section decides which samples there are, as JSON."""
    return _without_the_rest(config.model_dump(mode="json"))


def _without_the_rest(section: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in section.items() if name not in NOT_OF_THE_SOURCE}
    if "sources" in kept:
        kept["sources"] = {name: _without_the_rest(member) for name, member in kept["sources"].items()}
    return kept
