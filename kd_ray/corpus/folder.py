"""Images as files: one sub-folder a class, or images alone."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from kd_ray.config.corpus import Split
from kd_ray.corpus.source import Entry, Sample, SourceFiles, SplitName, split_roots
from kd_ray.errors import CorpusError
from kd_ray.storage import join

IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    location: str
    split: SplitName | None
    class_name: str | None


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A `Source` of image files; a class is a folder below the split's root with at least one image."""

    files: SourceFiles
    entries: tuple[Entry, ...]
    images: tuple[_Image, ...]
    classes: tuple[str, ...]
    num_other_files: int

    @property
    def uri(self) -> str:
        return self.files.uri

    @property
    def num_samples(self) -> int:
        return len(self.images)

    def listing(self) -> list[Entry]:
        return list(self.entries)

    def samples(self) -> Iterator[Sample]:
        index_of = {name: index for index, name in enumerate(self.classes)}
        contents = self.files.read_many(image.location for image in self.images)
        for image, (location, data) in zip(self.images, contents, strict=True):
            label = None if image.class_name is None else index_of[image.class_name]
            yield Sample(location=location, split=image.split, label=label, data=data)

    def read(self, locations: Collection[str]) -> Iterator[tuple[str, bytes]]:
        return self.files.read_many(sorted(locations))


def open_folder(uri: str, *, split: Split) -> FolderSource:
    """List the folder `uri` once; class names are the union over the splits.

    Raises:
        CorpusError: no images, or images both alone and in class folders of one split.
    """
    files = SourceFiles(uri)
    entries: list[Entry] = []
    images: list[_Image] = []
    num_other_files = 0
    for split_name, root in split_roots(split):
        found = files.entries(root)
        pictures = [entry for entry in found if entry.location.lower().endswith(IMAGE_SUFFIXES)]
        if not pictures:
            raise CorpusError(
                f"{join(uri, root)}: no images among its {len(found)} visible files; "
                f"expected names ending in {' '.join(IMAGE_SUFFIXES)}."
            )
        entries += pictures
        images += _with_classes(pictures, uri=uri, root=root, split=split_name)
        num_other_files += len(found) - len(pictures)
    return FolderSource(
        files=files,
        entries=tuple(sorted(entries, key=lambda entry: entry.location)),
        images=tuple(images),
        classes=tuple(sorted({image.class_name for image in images if image.class_name is not None})),
        num_other_files=num_other_files,
    )


def _with_classes(pictures: Sequence[Entry], *, uri: str, root: str, split: SplitName | None) -> list[_Image]:
    below = {entry.location: entry.location[len(root) :].lstrip("/") for entry in pictures}
    alone = [location for location, path in below.items() if "/" not in path]
    if alone and len(alone) < len(below):
        nested = next(location for location in below if location not in alone)
        raise CorpusError(
            f"{join(uri, root)}: {alone[0]} lies beside class folders ({nested}). "
            "Move all images into one folder a class, or all of them directly there."
        )
    return [
        _Image(location=location, split=split, class_name=None if alone else path.split("/", 1)[0])
        for location, path in below.items()
    ]
