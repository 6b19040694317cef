"""The segments of a JPEG before its first scan, without decoding anything."""

from collections.abc import Iterator

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOF0, SOF1, DHT, SOS, DQT, DRI, APP0, APP1, APP2, APP15, COM = (
    0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEF, 0xFE,
)  # fmt: skip

BARE = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})  # markers without a length, and what is none


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of each segment up to the first SOS: `data[start:stop]` begins with the marker.

    Stops where none begins: at other bytes, at a marker that has no length, at an impossible length. A `stop` beyond
    the end means that the data breaks off.
    """
    start, size = len(SOI), len(data)
    while start < size and data[start] == 0xFF:
        if start + 4 > size:
            yield 0, start, start + 4
            return
        marker, length = data[start + 1], data[start + 2] << 8 | data[start + 3]
        if marker in BARE or length < 2:
            return
        stop = start + 2 + length
        yield marker, start, stop
        if marker == SOS:
            return
        start = stop
