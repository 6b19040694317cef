"""Scanning one extent: hash and check every input, and leave the findings on storage."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from kd_ray.config.corpus import HashSplit, NativeResolutionFilter, Reencode, Split
from kd_ray.corpus.images.check import check
from kd_ray.corpus.images.decode import BadImage
from kd_ray.corpus.images.masks import check_mask
from kd_ray.corpus.images.reencode import can_be_stored
from kd_ray.corpus.packing.findings import PART_VERSION, Finding, PartSize, read_part_size, write_part
from kd_ray.corpus.source import Extent, Input, Reason, Rejected, Source, SplitName
from kd_ray.storage import open_storage
from kd_ray.storage.base import canonical_json
from kd_ray.storage.checksum import crc32c

NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """One extent of one of the sources; `index` numbers the extents of all of them."""

    index: int
    source: int
    extent: Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """Scans extents on any worker; a part that is there already is kept, so that a scan goes on where it was killed."""

    sources: tuple[Source, ...]
    storage_uri: str
    folder: str
    split: Split
    resolution_filter: NativeResolutionFilter
    reencode: Reencode | None

    def __call__(self, task: ScanTask) -> PartSize:
        """Write the part of `task` unless it is there.

        Raises:
            StorageError: the source or the storage cannot be reached.
        """
        storage, name = open_storage(self.storage_uri), part_object(self.folder, task.index)
        try:
            return read_part_size(storage, name, index=task.index)
        except FileNotFoundError:
            return write_part(storage, name, self._findings(task), index=task.index)

    def _findings(self, task: ScanTask) -> Iterator[Finding]:
        for each in self.sources[task.source].scan(task.extent):
            if isinstance(each, Rejected):
                yield _rejected(each, split=task.extent.split or "train")
            else:
                yield examine(
                    each,
                    extent_split=task.extent.split,
                    split=self.split,
                    resolution_filter=self.resolution_filter,
                    reencode=self.reencode,
                )


def examine(
    each: Input,
    *,
    extent_split: SplitName | None,
    split: Split,
    resolution_filter: NativeResolutionFilter,
    reencode: Reencode | None,
) -> Finding:
    """What packing makes of one input: its hash, its split, and why it is left out where it is.

    `extent_split` is that of its extent, where the source itself has splits.
    """
    sha256 = hashlib.sha256(each.data).digest()
    size_px = (0, 0)
    reason: Reason | None = None
    try:
        size_px = check(each.data)
        if each.mask is not None and check_mask(each.mask) != size_px:
            reason = "mask_size"
    except BadImage as error:
        reason = error.reason
    if reason is None and not is_wanted(size_px, resolution_filter):
        reason = "filtered"
    if reason is None and reencode is not None and not can_be_stored(size_px, reencode):
        reason = "too_large"
    if isinstance(split, HashSplit):
        own_split = split_of(sha256, split)
    else:
        assert extent_split is not None, "a source with paths as splits names the split of every extent"
        own_split = extent_split
    return Finding(
        location=each.location,
        locator=each.locator,
        run=each.run,
        split=own_split,
        reason=reason,
        label=each.label,
        annotations=annotations_digest(each),
        has_caption=each.caption is not None,
        sha256=sha256,
        crc32c=crc32c(each.data),
        size_bytes=len(each.data),
        size_px=size_px,
    )


def part_object(folder: str, index: int) -> str:
    """The object of one part of a scan."""
    return f"{folder}/{index:06d}.{PART_VERSION}.parquet"


def split_of(sha256: bytes, split: HashSplit) -> SplitName:
    """The split of a sample by its content alone; a test sample stays one whatever val_fraction is."""
    draw = int.from_bytes(hashlib.sha256(b"split" + sha256).digest()[:8], "big") / 2**64
    if draw < split.test_fraction:
        return "test"
    return "val" if draw >= 1.0 - split.val_fraction else "train"


def is_wanted(size_px: tuple[int, int], wanted: NativeResolutionFilter) -> bool:
    """Whether an image of (height, width) passes the filter."""
    short, long = min(size_px), max(size_px)
    return (
        (wanted.min_short_side is None or short >= wanted.min_short_side)
        and (wanted.min_long_side is None or long >= wanted.min_long_side)
        and (wanted.min_area is None or short * long >= wanted.min_area)
        and (wanted.max_aspect_ratio is None or long <= wanted.max_aspect_ratio * short)
    )


def annotations_digest(each: Input) -> int:
    """64 bits over mask, boxes and polygons; 0 where there are none."""
    if each.mask is None and each.boxes is None and each.polygons is None:
        return 0
    boxes = None if each.boxes is None else [[box.label, *box.corners] for box in each.boxes]
    polygons = None if each.polygons is None else [[polygon.label, *polygon.points] for polygon in each.polygons]
    mask = None if each.mask is None else hashlib.sha256(each.mask).hexdigest()
    digest = hashlib.sha256(canonical_json([mask, boxes, polygons])).digest()
    return int.from_bytes(digest[:8], "big") | 1  # never 0


def _rejected(each: Rejected, *, split: SplitName) -> Finding:
    return Finding(
        location=each.location,
        locator="",
        run=0,
        split=split,
        reason=each.reason,
        label=None,
        annotations=0,
        has_caption=False,
        sha256=NO_HASH,
        crc32c=0,
        size_bytes=each.size_bytes,
        size_px=(0, 0),
    )
