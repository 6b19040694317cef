"""What a source of images is: listed once, scanned extent by extent, and read again by locator for its shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

ALONE = ""  # the name of a corpus's only source, where a mixture's have names of their own

Reason = Literal[
    "empty",  # no bytes
    "not_an_image",  # bytes that begin like no image format that is read
    "unreadable",  # an image format, but its decoder refuses it; or its sectors on a local disk do
    "truncated",  # cut off
    "too_large",  # a decompression bomb, or too long a side for the format that it would be re-encoded to
    "unsupported",  # 32 bits a channel and the like: no 8-bit meaning
    "missing",  # listed, but not there (a dangling link, a path of a listing, a URL that cannot be)
    "permission_denied",
    "symlink_loop",
    "not_a_file",  # a pipe, a socket or a device under the name of an image
    "unsafe_path",  # a name or a link that points outside its archive or folder
    "not_an_archive",  # a .tar or .parquet that is none
    "damaged_archive",  # an archive that breaks off
    "bad_row",  # a line of a listing that is not of its format
    "other_columns",  # a Parquet file or a listing without the columns that the others have
    "no_class",  # an image beside class folders
    "no_image",  # a sample of an archive, or a row of a table, without an image
    "bad_label",  # a label that is no class
    "bad_annotation",  # boxes or polygons that cannot be understood
    "bad_mask",  # a mask that is no single-channel image
    "mask_size",  # a mask of another size than its image
    "no_mask",  # an image of a segmentation source without one
    "conflicting_labels",  # equal images with unequal labels, masks, boxes or polygons
    "duplicate_of_test",  # also in val or test, where it stays
    "filtered",  # by native_resolution_filter
    "other_type",  # a file that does not claim to be an image
]

# What was left out on purpose, or never claimed to be an image: listed, but not counted by max_bad_fraction.
NOT_BAD: frozenset[Reason] = frozenset({"duplicate_of_test", "filtered", "other_type"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file as a listing shows it; `location` is relative to the source, `version` an ETag or modification time."""

    location: str
    size_bytes: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A labelled box: (x_min, y_min, x_max, y_max) in pixels of the upright image."""

    label: int | None
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Polygon:
    """A labelled polygon: x and y in turn, in pixels of the upright image, at least three points."""

    label: int | None
    points: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A piece of a source that one worker scans in one go: a run of files, a tar, or row groups of a Parquet file.

    `digest` changes when one of its files does. `num_inputs` is how many `scan` gives, None where only the scan tells.
    `payload` is the source's own.
    """

    split: SplitName | None
    num_inputs: int | None
    num_bytes: int
    digest: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One source image with what belongs to it.

    `location` is for people; `locator` is what `fetch` finds it by. `run` numbers the stretch of its container that is
    cheap to read together (a row group, 64 MiB of a tar), unique within the extent. `label` is a class name, or a
    number as text where the source knows no names. Annotations are None where there are none.
    """

    location: str
    locator: str
    run: int = 0
    data: bytes
    label: str | None = None
    mask: bytes | None = None
    boxes: tuple[Box, ...] | None = None
    polygons: tuple[Polygon, ...] | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An input that cannot be handed on, and why; `size_bytes` is 0 where it is unknown."""

    location: str
    reason: Reason
    size_bytes: int


class Source(Protocol):
    """Images below one location. Sources hold no connection and no listing: they pickle, and travel to workers."""

    @property
    def uri(self) -> str:
        """The location, for people."""

    @property
    def is_sequential(self) -> bool:
        """Whether reading neighbours together is much cheaper than one by one (tars, Parquet), so that the packing
        order goes by runs first."""

    def class_names(self) -> tuple[str, ...]:
        """Class names in the order that the source declares; empty where it declares none.

        Raises:
            CorpusError: what should declare them cannot be read.
        """

    def extents(self) -> Iterator[Extent]:
        """Everything that is there now, listed in a fixed order a bounded piece at a time.

        Raises:
            CorpusError: nothing usable is there.
            StorageError: the location cannot be listed.
        """

    def scan(self, extent: Extent) -> Iterator[Input | Rejected]:
        """All inputs of an extent in a fixed order, few of them in memory at a time. Never fails for one bad input."""

    def fetch(self, locators: Sequence[str]) -> Iterator[Input]:
        """The inputs at `locators`, each once, in whatever order is cheapest; `run` is not filled in.

        Raises:
            CorpusError: one of them is gone or has changed its shape since it was scanned.
        """
