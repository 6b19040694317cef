"""Images and their masks in two folders; files of equal path but for the suffix belong together."""

import posixpath
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray.config.corpus import SegmentationSection, Split
from kd_ray.corpus.source import Entry, Extent, Input, Rejected
from kd_ray.corpus.sources.extents import Listed, as_listed, cut_extents, listed_in
from kd_ray.corpus.sources.files import SourceFiles, in_batches, split_roots
from kd_ray.corpus.sources.folder import gone, no_images, only_images
from kd_ray.corpus.sources.pattern import is_pattern
from kd_ray.errors import CorpusError

BETWEEN = "\0"  # of image and mask in a locator: no file name has it
MASKS_PER_CHUNK = 65_536


@dataclass(frozen=True, kw_only=True)
class SegmentationSource:
    """A `Source` of image files with mask files; `images` and `masks` are folders below each split's root."""

    files: SourceFiles
    split: Split
    images: str
    masks: str

    @property
    def uri(self) -> str:
        return self.files.uri

    @property
    def is_sequential(self) -> bool:
        return False

    def class_names(self) -> tuple[str, ...]:
        return ()

    def extents(self) -> Iterator[Extent]:
        for split, root in split_roots(self.split):
            yield from cut_extents(self._pairs(root), split=split)

    def scan(self, extent: Extent) -> Iterator[Input | Rejected]:
        listed = listed_in(extent)
        wanted = [each for each in listed if each.reason is None]
        found = self._read((each.location, each.mask or "") for each in wanted)
        for each in listed:
            if each.reason is not None:
                yield Rejected(location=each.location, reason=each.reason, size_bytes=each.size_bytes)
            else:
                read = next(found)
                yield replace(read, size_bytes=each.size_bytes) if isinstance(read, Rejected) else read

    def fetch(self, locators: Sequence[str]) -> Iterator[Input]:
        for read in self._read(_pair(locator) for locator in locators):
            if isinstance(read, Rejected):
                raise gone(self.files, read)
            yield read

    def _read(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Input | Rejected]:
        contents = self.files.read_each(location for pair in pairs for location in pair)
        for (image, data), (mask, mask_data) in zip(contents, contents, strict=True):
            if isinstance(data, Rejected):
                yield data
            elif isinstance(mask_data, Rejected):
                yield mask_data
            else:
                yield Input(location=image, locator=f"{image}{BETWEEN}{mask}", data=data, mask=mask_data)

    def _pairs(self, root: str) -> Iterator[tuple[Listed, str]]:
        images, masks = (posixpath.join(root, name) for name in (self.images, self.masks))
        rejected: list[Rejected] = []
        stored = _Masks(self._files(masks, rejected), folder=masks)
        num_files = num_images = 0
        for found in map(only_images, self.files.walk(images)):
            num_files += 1
            num_images += isinstance(found, Entry)
            yield _paired(found, stored, images)
        if not num_images:
            raise no_images(self.files, images, num_files)
        yield from map(as_listed, rejected)
        for entry in stored.left():
            yield as_listed(Rejected(location=entry.location, reason="no_image", size_bytes=entry.size_bytes))

    def _files(self, folder: str, rejected: list[Rejected]) -> Iterator[Entry]:
        for found in map(only_images, self.files.walk(folder)):
            if isinstance(found, Entry):
                yield found
            else:
                rejected.append(found)


def open_segmentation(section: SegmentationSection, *, split: Split) -> SegmentationSource:
    """The folders that `section` describes; nothing is listed yet.

    Raises:
        CorpusError: the splits overlap or are patterns, the two folders are no two folders below the splits, or
            access settings do not fit the location.
    """
    for _, root in split_roots(split):
        if is_pattern(root):
            raise CorpusError(
                f"corpus.split: {root} is a pattern, but a segmentation source needs a folder with "
                f"{section.images} and {section.masks} for each split. Give the folders."
            )
    images, masks = (posixpath.normpath(name) for name in (section.images, section.masks))
    for name in (images, masks):
        if name.startswith("/") or name.split("/")[0] in (".", "..") or is_pattern(name):
            raise CorpusError(
                f"corpus.images and corpus.masks: {name!r} is no folder below the split's. Give a relative path."
            )
    if posixpath.commonpath([images, masks]) in (images, masks):
        raise CorpusError(
            f"corpus.images ({images}) and corpus.masks ({masks}): one contains the other. Give two folders apart."
        )
    return SegmentationSource(files=SourceFiles(section.uri, section.access), split=split, images=images, masks=masks)


class _Masks:
    """All masks of a split by their stems, some 100 bytes each; of equal stems the first name is taken."""

    def __init__(self, entries: Iterable[Entry], *, folder: str) -> None:
        chunks = [_table(batch, folder) for batch in in_batches(entries, MASKS_PER_CHUNK)]
        table = pa.concat_tables(chunks) if chunks else _table([], folder)
        order = pc.sort_indices(table, sort_keys=[("stem", "ascending"), ("location", "ascending")])
        table = table.take(order).combine_chunks()
        self._stem, self._location, self._version = (_only(table, name) for name in ("stem", "location", "version"))
        self._size = table.column("size_bytes").to_numpy()
        self._is_left = np.ones(len(table), np.bool_)

    def take(self, stem: str) -> Entry | None:
        """The mask of that stem; several images may take the same one."""
        index = bisect_left(range(len(self._size)), stem, key=self._stem_at)
        if index == len(self._size) or self._stem_at(index) != stem:
            return None
        self._is_left[index] = False
        return self._entry(index)

    def left(self) -> Iterator[Entry]:
        """Those that no image took."""
        return (self._entry(int(index)) for index in np.flatnonzero(self._is_left))

    def _stem_at(self, index: int) -> str:
        return str(self._stem[index].as_py())

    def _entry(self, index: int) -> Entry:
        return Entry(
            location=self._location[index].as_py(),
            size_bytes=int(self._size[index]),
            version=self._version[index].as_py(),
        )


def _table(entries: Sequence[Entry], folder: str) -> Any:
    return pa.table(
        {
            "stem": pa.array([_stem(entry.location, folder) for entry in entries], pa.large_string()),
            "location": pa.array([entry.location for entry in entries], pa.large_string()),
            "version": pa.array([entry.version for entry in entries], pa.large_string()),
            "size_bytes": pa.array([entry.size_bytes for entry in entries], pa.int64()),
        }
    )


def _only(table: Any, name: str) -> Any:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())


def _stem(location: str, folder: str) -> str:
    return posixpath.splitext(location[len(folder) + 1 :])[0]


def _paired(found: Entry | Rejected, masks: _Masks, folder: str) -> tuple[Listed, str]:
    if isinstance(found, Rejected):
        return as_listed(found)
    mask = masks.take(_stem(found.location, folder))
    if mask is None:
        return as_listed(Rejected(location=found.location, reason="no_mask", size_bytes=found.size_bytes))
    size_bytes = found.size_bytes + mask.size_bytes
    listed = Listed(location=found.location, size_bytes=size_bytes, mask=mask.location)
    return listed, f"{found.version} {mask.version}"


def _pair(locator: str) -> tuple[str, str]:
    image, _, mask = locator.partition(BETWEEN)
    return image, mask
