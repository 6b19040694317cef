"""What is wrong with bytes that a decoder refused: no image at all, or an image that is cut off."""

from collections import deque
from typing import Literal

from kd_ray.corpus.images.jpeg import EOI, SOS, segments

TIFF_MAGICS = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b")
TIFF_PIXELS = ((273, 279), (324, 325))  # tags of the offset and the size of strips, and of tiles
TIFF_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # by type
MIN_ZEROS = 32
BITS_PER_SAMPLE, SAMPLE_FORMAT, FLOATS = 258, 339, 3


def format_of(data: bytes) -> str:
    """The format that `data` begins like, as Pillow names it; "" where it is none of those that are read."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(TIFF_MAGICS):
        return "TIFF"
    # two letters that texts begin with, too: BMP has a header of less than 256 bytes, PPM a blank next
    if data.startswith(b"BM") and not any(data[15:18]):
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"123456f" and data[2:3].isspace():
        return "PPM"
    return ""


def is_cut_off(data: bytes) -> bool:
    """Whether refused bytes end before their format says that they do, as far as that can be told."""
    match format_of(data):
        case "JPEG":
            last = deque(segments(data), maxlen=1)
            return bool(last) and (last[0][2] > len(data) or (last[0][0] != SOS and last[0][2] == len(data)))
        case "PNG":
            return b"IEND" not in data
        case "GIF":
            return not data.rstrip(b"\x00").endswith(b";")
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return int.from_bytes(data[2:6], "little") > len(data)
        case "TIFF":
            return _tiff_is_cut_off(data)
        case _:
            return False


def ends_in_zeros(data: bytes) -> bool:
    """Whether a JPEG breaks off into zeros, as copies and downloads that stopped half-way leave; libjpeg shows gray."""
    if data.endswith(EOI) or any(data[-MIN_ZEROS:]) or format_of(data) != "JPEG":
        return False
    # a thumbnail among the headers has an end, too
    scan = next((stop for marker, _, stop in segments(data) if marker == SOS), None)
    return scan is not None and data.find(EOI, scan) < 0


def is_too_deep(data: bytes) -> bool:
    """Whether refused bytes are a TIFF of floats or of more than 16 bits a channel."""
    numbers = _tiff_numbers(data) if format_of(data) == "TIFF" else None
    return numbers is not None and (numbers.get(BITS_PER_SAMPLE, 1) > 16 or numbers.get(SAMPLE_FORMAT, 1) == FLOATS)


def _tiff_is_cut_off(data: bytes) -> bool:
    numbers = _tiff_numbers(data)
    if numbers is None:
        return True
    return any(numbers.get(offset, 0) + numbers.get(size, 0) > len(data) for offset, size in TIFF_PIXELS)


def _tiff_numbers(data: bytes) -> dict[int, int] | None:
    """The last number under each tag of the first directory; None where it, or a value, reaches beyond the end."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    is_big = 0x2B in data[2:4]
    width, head, entry = (8, 8, 20) if is_big else (4, 2, 12)

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    first = number(width, width) + head
    stop = first + entry * number(first - head, head)
    if len(data) < max(first, stop):
        return None
    found = {}
    for at in range(first, stop, entry):
        item_size, count = TIFF_SIZES.get(number(at + 2, 2), 0), number(at + 4, width)
        if item_size and count:
            values = at + 4 + width if count * item_size <= width else number(at + 4 + width, width)
            if values + count * item_size > len(data):
                return None
            found[number(at, 2)] = number(values + (count - 1) * item_size, item_size)
    return found
