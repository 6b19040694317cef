"""Images in tar files of the WebDataset layout: neighbours that share the name before the first dot are one sample.

| member | meaning |
|---|---|
| `.jpg .jpeg .png .gif .webp .bmp .tiff .tif .img` | the image; of several in a sample the first, the others are told |
| `.<mask_extension>` | its mask |
| `.cls` | its label: a number, or a name as `007` is |
| `.txt` | its caption |
| `.json` | an object with any of `label`, `caption`, `boxes`, `polygons`, `uid`, and the image's `sha256` or `md5` |

A `uid` is kept in the location of the sample, `<tar>#<key> uid=<uid>`, so that tables with that key can be joined.
Other extensions and hidden members (`.x.png`) are ignored; a `.cls` or `.txt` comes before the same in `.json`.
"""

import hashlib
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kd_ray.config.corpus import Split, WebDatasetSection
from kd_ray.corpus.source import Entry, Extent, Input, Reason, Rejected, SplitName
from kd_ray.corpus.sources.annotations import parse_boxes, parse_polygons, read_class_names
from kd_ray.corpus.sources.containers import (
    BadInput,
    Containers,
    Labels,
    changed,
    is_text,
    locate,
    rejected_of,
    size_of,
    unreachable,
)
from kd_ray.corpus.sources.files import SourceFiles
from kd_ray.corpus.sources.ranges import open_ranges
from kd_ray.corpus.sources.tar import TarDamage, TarMember, walk
from kd_ray.storage.base import canonical_json, digest_of_json
from kd_ray.storage.range_file import RangeFile

SUFFIX = ".tar"
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "gif", "webp", "bmp", "tiff", "tif", "img"})
SIDECARS = frozenset({"cls", "txt", "json"})

MAX_MEMBER_BYTES = 2 << 30
MAX_SIDECAR_BYTES = 16 << 20  # JSON takes ten times its size in memory

MAX_UID_LENGTH = 256

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
PADDED_NUMBER = re.compile(r"-?[0-9]+")

RUN_BYTES = 64 << 20
READ_AHEAD_BYTES = 16 << 20  # one GET of S3 reaches most of a link's speed above 8 MiB
MAX_GAP_BYTES = 1 << 20  # read through rather than begun anew: a request costs as much as a MiB


@dataclass(slots=True, kw_only=True)
class _Group:
    """The members of one sample that are used, by their meaning; `start` to `stop` holds them.

    `num_bytes` is of all its members, used or not, but for those that have a row of their own.
    """

    key: str
    parts: dict[str, bytes] = field(default_factory=dict)
    start: int = 0
    stop: int = 0
    begins: int
    num_bytes: int = 0
    has_refused_image: bool = False

    def add(self, meaning: str | None, member: TarMember, tar: RangeFile) -> None:
        self.num_bytes += member.size_bytes
        if meaning is None or meaning in self.parts:
            return
        self.start = self.start if self.parts else member.start
        self.stop = member.stop
        tar.seek(member.data_start)
        self.parts[meaning] = tar.read(member.size_bytes)


@dataclass(frozen=True, kw_only=True)
class WebDatasetSource:
    """A `Source` of samples in tars, each located as `<tar>#<key>`, with its range of bytes as the locator."""

    section: WebDatasetSection
    tars: Containers

    @property
    def uri(self) -> str:
        return self.section.uri

    @property
    def _files(self) -> SourceFiles:
        return self.tars.files

    @property
    def is_sequential(self) -> bool:
        return True

    def class_names(self) -> tuple[str, ...]:
        return self._labels.names

    def extents(self) -> Iterator[Extent]:
        return self.tars.extents(self._cut)

    def _cut(self, tar: Entry, split: SplitName | None) -> Iterator[Extent]:
        size = size_of(self._files, tar)
        yield Extent(
            split=split,
            num_inputs=self.section.samples_per_file,
            num_bytes=size,
            digest=digest_of_json([tar.location, size, tar.version]),
            payload=canonical_json({"location": tar.location, "size_bytes": size}),
        )

    def scan(self, extent: Extent) -> Iterator[Input | Rejected]:
        if (rejected := rejected_of(extent)) is not None:
            yield from rejected
            return
        payload = json.loads(extent.payload)
        location, size = str(payload["location"]), int(payload["size_bytes"])
        if size == 0:
            yield Rejected(location=location, reason="empty", size_bytes=0)
            return
        try:
            with open_ranges(self._files, location, size_bytes=size, read_ahead=READ_AHEAD_BYTES) as tar:
                yield from self._samples(tar, location, walk(tar))
        except (FileNotFoundError, PermissionError) as error:
            yield unreachable(error, location, size)

    def fetch(self, locators: Sequence[str]) -> Iterator[Input]:
        ranges_of: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for locator in locators:
            location, _, numbers = locator.rpartition("#")
            start, _, stop = numbers.partition("-")
            ranges_of[location].add((int(start), int(stop)))
        for location, ranges in sorted(ranges_of.items()):
            for window in _windows(sorted(ranges)):
                yield from self._fetch(location, window)

    def _fetch(self, location: str, window: Sequence[tuple[int, int]]) -> Iterator[Input]:
        """Samples near each other, in their order."""
        with open_ranges(self._files, location, size_bytes=window[-1][1], read_ahead=READ_AHEAD_BYTES) as tar:
            for start, stop in window:
                try:
                    found = list(self._samples(tar, location, walk(tar, start=start, stop=stop)))
                except (FileNotFoundError, PermissionError) as error:
                    raise changed(self._files, location, "it cannot be read") from error
                inputs = [each for each in found if isinstance(each, Input)]
                if len(inputs) != 1 or inputs[0].locator != f"{location}#{start}-{stop}":
                    raise changed(self._files, location, f"no sample lies at its bytes {start} to {stop}")
                yield inputs[0]

    def _samples(
        self, tar: RangeFile, location: str, members: Iterable[TarMember | TarDamage]
    ) -> Iterator[Input | Rejected]:
        group: _Group | None = None
        for member in members:
            if isinstance(member, TarDamage):
                if group is not None and _closes(member, group):
                    yield from self._finish(group, location)
                    group = None
                unread = tar.size_bytes - (member.position if group is None else group.begins)
                yield Rejected(location=location, reason=member.reason, size_bytes=max(unread, 0))
                return
            key, extension = _split_name(member.name)
            meaning = self._meaning(extension)
            reason = _refusal(member, meaning)
            if reason is not None:
                yield _rejected(member, location, reason)
            if key is None or member.kind == "folder" or _leaves(member.name):
                continue
            if group is None or group.key != key:
                if group is not None:
                    yield from self._finish(group, location)
                group = _Group(key=key, begins=member.start)
            if reason is not None:
                group.has_refused_image |= meaning == "image"
            elif meaning == "image" and meaning in group.parts:
                yield _rejected(member, location, "other_type")
            else:
                group.add(meaning, member, tar)
        if group is not None:
            yield from self._finish(group, location)

    def _meaning(self, extension: str) -> str | None:
        if extension == self._mask_extension:
            return "mask"
        if extension in IMAGE_EXTENSIONS:
            return "image"
        return extension if extension in SIDECARS else None

    @cached_property
    def _mask_extension(self) -> str | None:
        extension = self.section.mask_extension
        return None if extension is None else extension.lower().removeprefix(".")

    @cached_property
    def _labels(self) -> Labels:
        uri = self.section.classes_uri
        return Labels(() if uri is None else read_class_names(uri, self.section.access))

    def _finish(self, group: _Group, location: str) -> Iterator[Input | Rejected]:
        where = f"{location}#{_shown(group.key)}"
        if "image" not in group.parts:
            if not group.has_refused_image:
                yield Rejected(location=where, reason="no_image", size_bytes=group.num_bytes)
            return
        try:
            yield self._input(group, location=where, locator=f"{location}#{group.start}-{group.stop}")
        except BadInput as error:
            yield Rejected(location=where, reason=error.reason, size_bytes=group.stop - group.start)

    def _input(self, group: _Group, *, location: str, locator: str) -> Input:
        data = group.parts["image"]
        sidecar = _sidecar(group.parts.get("json"))
        _check_hash(data, sidecar)
        label = _label(group.parts["cls"], self._labels) if "cls" in group.parts else sidecar.get("label")
        try:
            boxes, polygons = parse_boxes(sidecar.get("boxes")), parse_polygons(sidecar.get("polygons"))
        except ValueError as error:
            raise BadInput("bad_annotation") from error
        return Input(
            location=location + _uid(sidecar),
            locator=locator,
            run=group.start // RUN_BYTES,
            data=data,
            label=self._labels.name_of(label),
            mask=group.parts.get("mask"),
            boxes=boxes,
            polygons=polygons,
            caption=_caption(group.parts.get("txt"), sidecar),
        )


def open_webdataset(section: WebDatasetSection, *, split: Split) -> WebDatasetSource:
    """The tars at `section.uri`: one file, or all `*.tar` below a folder.

    Raises:
        CorpusError: the split's paths leave the source or overlap.
    """
    return WebDatasetSource(section=section, tars=locate(section, split, suffix=SUFFIX))


def _split_name(name: str) -> tuple[str | None, str]:
    """(`dir/00001`, `seg.png`) of `dir/00001.seg.png`; no key where there is no dot, or nothing before it."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}" if stem and extension else None), extension.lower()


def _closes(damage: TarDamage, group: _Group) -> bool:
    """Whether what comes after the group cannot be part of it; what cannot be read might have been its label."""
    if damage.name is None:
        return False
    key, _ = _split_name(damage.name)
    return damage.name == "" or (key is not None and key != group.key)


def _refusal(member: TarMember, meaning: str | None) -> Reason | None:
    """Why a member is not used whatever its sample is."""
    if member.kind == "folder":
        return None
    if _leaves(member.name) or (member.kind in ("symlink", "hardlink") and _leaves(_target(member))):
        return "unsafe_path"
    if member.kind != "file":
        return "not_a_file"
    key, _ = _split_name(member.name)
    if key is None and not member.name.rpartition("/")[2].startswith("."):
        return "other_type"
    limit = MAX_SIDECAR_BYTES if meaning in SIDECARS else MAX_MEMBER_BYTES
    return "too_large" if member.size_bytes > limit else None


def _rejected(member: TarMember, location: str, reason: Reason) -> Rejected:
    return Rejected(location=f"{location}#{_shown(member.name)}", reason=reason, size_bytes=member.size_bytes)


def _target(member: TarMember) -> str:
    """Where a link leads, from the root of the tar; a symbolic one begins at its own folder."""
    folder = posixpath.dirname(member.name) if member.kind == "symlink" else ""
    return posixpath.normpath(posixpath.join(folder, member.target))


def _leaves(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/")


def _shown(name: str) -> str:
    return name.removeprefix("./").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _sidecar(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput("bad_annotation") from error
    if not isinstance(value, dict):
        raise BadInput("bad_annotation")
    return value


def _check_hash(data: bytes, sidecar: dict[str, Any]) -> None:
    """Compare the image with the hash that its sidecar gives.

    img2dataset, which alone writes `original_width`, hashes what it downloaded and stores what it resized.
    """
    if "original_width" in sidecar:
        return
    for name, num_digits in (("sha256", 64), ("md5", 32)):
        given = sidecar.get(name)
        if isinstance(given, str) and len(given) == num_digits and given.lower() != hashlib.new(name, data).hexdigest():
            raise BadInput("damaged_archive")


def _uid(sidecar: dict[str, Any]) -> str:
    """The key that the sidecar gives, as a part of a location."""
    uid = sidecar.get("uid")
    if isinstance(uid, bool) or not isinstance(uid, str | int) or len(str(uid)) > MAX_UID_LENGTH:
        return ""
    return f" uid={uid}" if is_text(str(uid)) else ""


def _label(data: bytes, labels: Labels) -> str | int:
    """A number where it is written as one, a name otherwise; where classes are declared also `007` is a number."""
    try:
        text = data.decode().strip()
        is_number = NUMBER.fullmatch(text) is not None
        if labels.names and not is_number:
            is_number = PADDED_NUMBER.fullmatch(text) is not None and text not in labels.names
        return int(text) if is_number else text
    except ValueError as error:
        raise BadInput("bad_label") from error


def _caption(text: bytes | None, sidecar: dict[str, Any]) -> str | None:
    caption = sidecar.get("caption") if text is None else text.decode("utf-8", "replace").strip()
    if caption is not None and not (isinstance(caption, str) and is_text(caption)):
        raise BadInput("bad_annotation")
    return caption


def _windows(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Runs of sorted ranges without a gap that is worth a request of its own."""
    window: list[tuple[int, int]] = []
    for each in ranges:
        if window and each[0] - window[-1][1] > MAX_GAP_BYTES:
            yield window
            window = []
        window.append(each)
    if window:
        yield window
