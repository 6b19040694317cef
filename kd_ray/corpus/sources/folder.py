"""Images as files: one sub-folder a class, or images alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from kd_ray.config.corpus import Access, Split
from kd_ray.corpus.source import Entry, Extent, Input, Rejected, SplitName
from kd_ray.corpus.sources.extents import FILES_PER_EXTENT, Listed, as_listed, extent_of, listed_in
from kd_ray.corpus.sources.files import SourceFiles, split_roots, walk_splits
from kd_ray.corpus.sources.pattern import Pattern, is_pattern
from kd_ray.errors import CorpusError

IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".img", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A `Source` of image files; a class is a folder below the split's root with at least one image.

    Images beside class folders are rejected, where they are the fewer.
    """

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
            yield from self._extents_of(found, root, split)

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

    def _extents_of(self, found: Iterator[Entry | Rejected], root: str, split: SplitName | None) -> Iterator[Extent]:
        """Extents of the class folders as they are listed, then of what lies beside them.

        Whether that is an unlabelled corpus or strays is known only at the end.
        """
        folder = _folder(root)
        within, beside = _Pile(split), _Pile(split)
        for each in found:
            if not each.location:
                raise CorpusError(f"{self.files.where('')}: is a file; corpus.kind folder needs a folder of images.")
            image = only_images(each)
            is_within = "/" in _below(image.location, folder)
            (within if is_within else beside).add(image)
            yield from within.cut()
        if not (within.num_images or beside.num_images):
            raise no_images(self.files, root, within.num_files + beside.num_files)
        if within.num_images and beside.num_images > within.num_images:
            raise CorpusError(
                f"{self.files.where(root)}: {beside.num_images:,} images ({beside.example} is one) lie beside class "
                f"folders with {within.num_images:,} ({within.example} is one). Move all images into one folder a "
                "class, or all of them directly there."
            )
        yield from within.rest()
        yield from (_strays(extent) if within.num_images else extent for extent in beside.rest())


class _Pile:
    """What is listed, cut into extents as they fill up."""

    def __init__(self, split: SplitName | None) -> None:
        self._split = split
        self._waiting: list[tuple[Listed, str]] = []
        self._extents: list[Extent] = []
        self.num_files = 0
        self.num_images = 0
        self.example = ""

    def add(self, found: Entry | Rejected) -> None:
        """One more; images are those that are not rejected."""
        self.num_files += 1
        if isinstance(found, Entry):
            self.num_images += 1
            self.example = self.example or found.location
        self._waiting.append(as_listed(found))
        if len(self._waiting) == FILES_PER_EXTENT:
            self._extents.append(extent_of(self._waiting, split=self._split))
            self._waiting = []

    def cut(self) -> list[Extent]:
        """The extents that are full by now, each once."""
        full, self._extents = self._extents, []
        return full

    def rest(self) -> list[Extent]:
        """The extents that `cut` has not given."""
        last = [extent_of(self._waiting, split=self._split)] if self._waiting else []
        return [*self._extents, *last]


def _strays(extent: Extent) -> Extent:
    """The same files, none of which is used."""
    listed = [each if each.reason is not None else replace(each, reason="no_class") for each in listed_in(extent)]
    # their versions are gone, but what is not read may change
    return extent_of([(each, "") for each in listed], split=extent.split)


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
