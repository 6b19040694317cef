"""Images written byte by byte, for what Pillow does not write."""

import struct
import zlib
from collections.abc import Sequence

PIXELS_AT = 0xDEADBEEF  # stands for the place of the pixels until that is known
SHORT, LONG = 3, 4


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bytes(
    height: int,
    width: int,
    rows: bytes,
    *,
    bits: int = 8,
    color_type: int = 2,
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
) -> bytes:
    """A PNG of raw `rows`, each with its filter byte; chunks `before` and `after` the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", header), *before, png_chunk(b"IDAT", zlib.compress(rows)), *after, png_chunk(b"IEND", b"")
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff_bytes(
    height: int,
    width: int,
    pixels: bytes,
    *,
    bits: int = 8,
    channels: int = 1,
    photometric: int = 1,
    sample_format: int = 1,
    order: str = "<",
    extra: Sequence[tuple[int, int, tuple[int, ...]]] = (),
    next_directory: int = 0,
) -> bytes:
    """An uncompressed TIFF of one strip; `extra` holds further (tag, type, values)."""
    tags = [
        (256, LONG, (width,)),
        (257, LONG, (height,)),
        (258, SHORT, (bits,) * channels),
        (259, SHORT, (1,)),
        (262, SHORT, (photometric,)),
        (273, LONG, (PIXELS_AT,)),
        (277, SHORT, (channels,)),
        (278, LONG, (height,)),
        (279, LONG, (len(pixels),)),
        (339, SHORT, (sample_format,) * channels),
        *extra,
    ]
    values_at = 8 + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, numbers in sorted(tags):
        packed = struct.pack(f"{order}{len(numbers)}{'HL'[kind - SHORT]}", *numbers)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack(f"{order}L", values_at + len(values))
        entries += struct.pack(f"{order}HHL", tag, kind, len(numbers)) + packed.ljust(4, b"\x00")
    entries = entries.replace(struct.pack(f"{order}L", PIXELS_AT), struct.pack(f"{order}L", values_at + len(values)))
    head = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}LH", 8, len(tags))
    return head + entries + struct.pack(f"{order}L", next_directory) + values + pixels


def exif_bytes(entries: Sequence[tuple[int, int, int, bytes]], *, next_directory: int = 0) -> bytes:
    """An EXIF block of (tag, type, count, four bytes of value or offset)."""
    packed = b"".join(struct.pack(">HHL", tag, kind, count) + value for tag, kind, count, value in entries)
    return (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08"
        + struct.pack(">H", len(entries))
        + packed
        + struct.pack(">L", next_directory)
    )


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """`jpeg` with one more segment, first."""
    return jpeg[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body + jpeg[2:]


def with_size(jpeg: bytes, height: int, width: int) -> bytes:
    """`jpeg` with another size in its frame header."""
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + height.to_bytes(2) + width.to_bytes(2) + jpeg[frame + 9 :]
