"""Walking a tar that may be hostile or damaged: member by member, in bounded memory, with exact byte ranges.

The standard library parses the headers, block by block (`TarInfo.frombuf`: v7, ustar, GNU and pax), but its `TarFile`
does not walk them: it ends silently at a damaged header, never ends at a negative size (CVE-2025-8194), runs into the
recursion limit on a thousand long-name headers, and reads extension headers of any size into memory.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kd_ray.corpus.source import Reason
from kd_ray.storage.range_file import RangeFile

BLOCK_BYTES = tarfile.BLOCKSIZE

# Of a GNU long name or a pax header: the names in it are file names, which no system lets grow beyond some KiB.
MAX_EXTENSION_BYTES = 1 << 20

# How much is looked at in one go when the rest of a tar is checked to be padding.
PADDING_READ_BYTES = 1 << 20

MemberKind = Literal["file", "folder", "symlink", "hardlink", "other"]

_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_EXTENSIONS = frozenset(
    {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}
)
_WITHOUT_DATA: dict[bytes, MemberKind] = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "other",
    tarfile.BLKTYPE: "other",
    tarfile.FIFOTYPE: "other",
}
_LABELS_AND_LISTINGS = frozenset({b"V", b"D"})  # GNU tar's volume name, and what a folder held at an incremental backup


@dataclass(frozen=True, slots=True, kw_only=True)
class TarMember:
    """One member: its bytes are at `data_start`, everything that belongs to it from `start` to `stop`.

    Names that are not UTF-8 hold surrogates, as those of the file system do. `target` is that of a link.
    """

    name: str
    kind: MemberKind
    target: str
    start: int
    data_start: int
    size_bytes: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TarDamage:
    """Where a tar ends before its end, and why.

    `name` is that of a member that is cut off, "" behind the mark that ends the tar, None where no header can be read.
    """

    reason: Reason
    position: int
    name: str | None = None


class _Broken(Exception):
    """The walk cannot go on, maybe for a cut member of known name; becomes a `TarDamage`."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.name = name


def walk(tar: RangeFile, *, start: int = 0, stop: int | None = None) -> Iterator[TarMember | TarDamage]:
    """The members from `start` on, up to `stop` or the mark that ends the tar; at damage, that, and nothing more.

    All of a member's data is there. The caller may seek and read between two of them.
    """
    position = start
    while stop is None or position < stop:
        try:
            member = _next(tar, position)
        except _Broken as error:
            reason: Reason = "damaged_archive" if position or _is_marked(tar) else "not_an_archive"
            yield TarDamage(reason=reason, position=position, name=error.name)
            return
        if member is None:
            yield from _after_end(tar, position)
            return
        yield member
        position = member.stop


@dataclass(slots=True)
class _Extensions:
    """What the headers before a member's own say about it; global pax headers say nothing that is used."""

    name: str | None = None
    target: str | None = None
    size: int | None = None
    is_sparse: bool = False
    num: int = 0

    def add(self, kind: bytes, data: bytes) -> None:
        self.num += 1
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = _text(data.split(b"\0", 1)[0])
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self.target = _text(data.split(b"\0", 1)[0])
        elif kind != tarfile.XGLTYPE:
            records = _pax_records(data)
            self.name = _text(records[b"path"]) if b"path" in records else self.name
            self.target = _text(records[b"linkpath"]) if b"linkpath" in records else self.target
            self.size = _number(records[b"size"]) if b"size" in records else self.size
            self.is_sparse |= any(key.startswith(b"GNU.sparse.") for key in records)


def _next(tar: RangeFile, start: int) -> TarMember | None:
    """The member at `start`, None at the mark that ends a tar."""
    position, extensions = start, _Extensions()
    while True:
        block = _read(tar, position, BLOCK_BYTES)
        if not any(block):
            if extensions.num:
                raise _Broken
            return None
        header = _header(block)
        position += BLOCK_BYTES
        if header.type not in _EXTENSIONS:
            return _member(tar, header, block, start=start, data_start=position, extensions=extensions)
        if header.size > MAX_EXTENSION_BYTES:
            raise _Broken
        extensions.add(header.type, _read(tar, position, header.size))
        position += _padded(header.size)


def _member(
    tar: RangeFile,
    header: tarfile.TarInfo,
    block: bytes,
    *,
    start: int,
    data_start: int,
    extensions: _Extensions,
) -> TarMember:
    name = header.name if extensions.name is None else extensions.name
    size = header.size if extensions.size is None else extensions.size
    kind: MemberKind = "file" if header.type in _FILES else "other"
    if header.type in _WITHOUT_DATA:
        kind, size = _WITHOUT_DATA[header.type], 0
    elif header.type == tarfile.GNUTYPE_SPARSE:
        data_start = _after_sparse_map(tar, block, data_start)
    elif header.type in _LABELS_AND_LISTINGS or name.endswith("/"):
        kind = "folder"
    elif extensions.is_sparse:
        kind = "other"
    if data_start + size > tar.size_bytes:
        raise _Broken(name)
    return TarMember(
        name=name,
        kind=kind,
        target=header.linkname if extensions.target is None else extensions.target,
        start=start,
        data_start=data_start,
        size_bytes=size,
        stop=data_start + _padded(size),
    )


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _Broken from error
    if header.size < 0:
        raise _Broken
    return header


def _after_sparse_map(tar: RangeFile, block: bytes, position: int) -> int:
    """Where the data of an old GNU sparse member begins: its map goes on in further blocks while a flag says so."""
    is_continued = block[482]
    while is_continued:
        is_continued = _read(tar, position, BLOCK_BYTES)[504]
        position += BLOCK_BYTES
    return position


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Records `<length> <key>=<value>\\n`; the length counts all of the record."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        digits, _, _ = data[position : position + 20].partition(b" ")
        record = data[position + len(digits) + 1 : position + _number(digits)]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _Broken
        records[key] = value[:-1]
        position += _number(digits)
    return records


def _after_end(tar: RangeFile, position: int) -> Iterator[TarDamage]:
    """Nothing where only zeros follow: a tar that goes on after its end has been torn, or put together from several."""
    if position == 0:
        yield TarDamage(reason="empty", position=0)
        return
    tar.seek(position)
    while data := tar.read(PADDING_READ_BYTES):
        if data.count(0) != len(data):
            yield TarDamage(reason="damaged_archive", position=position, name="")
            return


def _is_marked(tar: RangeFile) -> bool:
    """Whether the first block, though damaged, is that of a tar."""
    tar.seek(0)
    return tar.read(BLOCK_BYTES)[257:262] == b"ustar"


def _read(tar: RangeFile, position: int, size: int) -> bytes:
    tar.seek(position)
    data = tar.read(size)
    if len(data) != size:
        raise _Broken
    return data


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise _Broken
    return int(digits)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
