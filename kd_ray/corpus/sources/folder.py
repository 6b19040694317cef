"""Images as files: one sub-folder a class, or images alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from kd_ray.config.corpus import Access, Split
from kd_ray.corpus.source import Entry, Extent, Input, Rejected
from kd_ray.corpus.sources.extents import Listed, as_listed, cut_extents, listed_in
from kd_ray.corpus.sources.files import SourceFiles, split_roots, walk_splits
from kd_ray.corpus.sources.pattern import Pattern, is_pattern
from kd_ray.errors import CorpusError

IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".img", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A `Source` of image files; a class is a folder below the split's root with at least one image."""

    files: SourceFiles
    split: Split

    @property
    def uri(self) -> str:
        return self.files.uri

    @property
    def is_sequential(self) -> bool:
        return False

    def class_names(self) -> tuple[str, ...]:
        return ()

    def extents(self) -> Iterator[Extent]:
        for split, root, found in walk_splits(self.files, self.split):
            yield from cut_extents(self._images(found, root), split=split)

    def scan(self, extent: Extent) -> Iterator[Input | Rejected]:
        listed = listed_in(extent)
        contents = self.files.read_each(each.location for each in listed if each.reason is None)
        for each in listed:
            if each.reason is not None:
                yield Rejected(location=each.location, reason=each.reason, size_bytes=each.size_bytes)
                continue
            location, data = next(contents)
            if isinstance(data, Rejected):
                yield replace(data, size_bytes=each.size_bytes)
            else:
                yield self._input(location, data)

    def fetch(self, locators: Sequence[str]) -> Iterator[Input]:
        for location, data in self.files.read_each(locators):
            if isinstance(data, Rejected):
                raise gone(self.files, data)
            yield self._input(location, data)

    def _input(self, location: str, data: bytes) -> Input:
        return Input(location=location, locator=location, data=data, label=self._class_of(location))

    def _class_of(self, location: str) -> str | None:
        folder = next(each for each in self._folders if not each or (location + "/").startswith(each + "/"))
        name, slash, _ = _below(location, folder).partition("/")
        return name if slash else None

    @cached_property
    def _folders(self) -> list[str]:
        """Those that hold the class folders, inner ones first."""
        return sorted({"", *(_folder(root) for _, root in split_roots(self.split))}, key=len, reverse=True)

    def _images(self, found: Iterator[Entry | Rejected], root: str) -> Iterator[tuple[Listed, str]]:
        alone = nested = None
        num_files = 0
        for each in found:
            num_files += 1
            image = only_images(each)
            if isinstance(image, Entry):
                if "/" in _below(image.location, _folder(root)):
                    nested = nested or image.location
                else:
                    alone = alone or image.location
            if alone and nested:
                raise CorpusError(
                    f"{self.files.where(root)}: {alone} lies beside class folders ({nested}). "
                    "Move all images into one folder a class, or all of them directly there."
                )
            yield as_listed(image)
        if not (alone or nested):
            raise no_images(self.files, root, num_files)


def open_folder(uri: str, *, access: Access, split: Split) -> FolderSource:
    """The folder `uri`; nothing is listed yet.

    Raises:
        CorpusError: the splits overlap, or access settings that do not fit `uri`.
    """
    split_roots(split)
    return FolderSource(files=SourceFiles(uri, access), split=split)


def only_images(found: Entry | Rejected) -> Entry | Rejected:
    """Files and pipes by other names than images' are of another type; all else stays."""
    if found.location.lower().endswith(IMAGE_SUFFIXES) or (
        isinstance(found, Rejected) and found.reason != "not_a_file"  # a link or a folder may hide images
    ):
        return found
    return Rejected(location=found.location, reason="other_type", size_bytes=found.size_bytes)


def no_images(files: SourceFiles, root: str, num_files: int) -> CorpusError:
    """The error of a split with nothing to pack."""
    return CorpusError(
        f"{files.where(root)}: no images among its {num_files} visible files; "
        f"expected names ending in {' '.join(IMAGE_SUFFIXES)}."
    )


def gone(files: SourceFiles, rejected: Rejected) -> CorpusError:
    """The error of an input that `fetch` does not find."""
    return CorpusError(
        f"{files.where(rejected.location)}: {rejected.reason}, though it was there when the source was scanned. "
        "Let the source rest, then pack again."
    )


def _folder(root: str) -> str:
    return Pattern(root).folder if is_pattern(root) else root


def _below(location: str, folder: str) -> str:
    return location[len(folder) :].lstrip("/")
