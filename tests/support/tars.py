"""Tars as the tests need them: made by the standard library, or header by header where it would refuse."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_ray.config.corpus import HashSplit, WebDatasetCorpus
from kd_ray.corpus.source import Input, Rejected
from kd_ray.corpus.sources.webdataset import WebDatasetSource, open_webdataset

Member = tuple[str, bytes] | tarfile.TarInfo


def tar_bytes(members: Sequence[Member], *, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, *, target: str = "") -> tarfile.TarInfo:
    """A link, a device or the like, which has no data."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member that is said to hold `size` bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sidecar(**values: Any) -> bytes:
    return json.dumps(values).encode()


def source_of(uri: Path | str, **settings: Any) -> WebDatasetSource:
    split = settings.pop("split", HashSplit())
    config = WebDatasetCorpus(kind="webdataset", uri=str(uri), packed_uri="unused", split=split, **settings)
    return open_webdataset(config, split=split)


def scanned(source: WebDatasetSource) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


def scanned_bytes(folder: Path, data: bytes, **settings: Any) -> list[Input | Rejected]:
    """What a source with this one tar gives."""
    (folder / "a.tar").write_bytes(data)
    return scanned(source_of(folder / "a.tar", **settings))


def told(found: Sequence[Input | Rejected]) -> list[tuple[str, str]]:
    """(location, label or reason) of each."""
    return [(each.location, each.reason if isinstance(each, Rejected) else str(each.label)) for each in found]
