"""Files that a corpus of a million meets somewhere, each with the reason under which it must be quarantined."""

import gzip
import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd_ray.corpus.source import Reason
from tests.support.image_bytes import exif_bytes, png_bytes, png_chunk, tiff_bytes, with_segment, with_size

Case = tuple[str, bytes, Reason | None]


def hostile_bytes() -> dict[str, tuple[bytes, Reason | None]]:
    """Hostile bytes by file name, with the reason for which they are refused; None where they must be accepted.

    What is accepted is different from all else that is, so that none stands for another.
    """
    cases = [*_no_images(), *_cut_off(), *_bombs(), *_damaged(), *_deep(), *_odd_but_whole()]
    return {name: (data, reason) for name, data, reason in cases}


def hostile_files(root: Path) -> dict[str, Reason | None]:
    """Write hostile class folders `a` and `b` below `root`; by path relative to it, what must become of each input.

    A hidden file is there, too, which must not be met at all.
    """
    expected: dict[str, Reason | None] = {}
    for i, (name, (data, reason)) in enumerate(hostile_bytes().items()):
        expected[_write(root, f"{'ab'[i % 2]}/{name}", data)] = reason
    for i, name in enumerate(
        ["two\nlines.png", "emoji \U0001f600 ä.png", "-rf.png", "l" * 196 + ".png", "100%?#&*[a].png", "deep/er/x.png"]
    ):
        expected[_write(root, f"b/{name}", _picture(500 + i))] = None
    expected[_write(root, "a/folder.jpg/inner.png", _picture(510))] = None
    expected[_write(root, "stray.png", _picture(511))] = "no_class"
    expected[_write(root, "a/Thumbs.db", b"\xd0\xcf\x11\xe0")] = "other_type"
    _write(root, "a/.hidden.jpg", b"not to be seen")
    return expected | _special_files(root)


def unreadable_files(root: Path) -> dict[str, Reason | None]:
    """As `hostile_files`: a file and a folder without permission to read them. They do not hold for root."""
    expected: dict[str, Reason | None] = {}
    expected[_write(root, "b/secret.png", _picture(520))] = "permission_denied"
    expected["b/locked"] = "permission_denied"
    _write(root, "b/locked/x.png", _picture(521))
    (root / "b/secret.png").chmod(0)
    (root / "b/locked").chmod(0)
    return expected


def _write(root: Path, name: str, data: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


def _special_files(root: Path) -> dict[str, Reason | None]:
    (root / "a/dangling.jpg").symlink_to("nowhere.jpg")
    (root / "a/itself.jpg").symlink_to("itself.jpg")
    (root / "a/above").symlink_to("..")
    os.mkfifo(root / "a/pipe.jpg")
    folder = os.open(root / "a", os.O_RDONLY)
    try:  # the path of a socket has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(f"/proc/self/fd/{folder}/socket.jpg")
    finally:
        os.close(folder)
    return {
        "a/dangling.jpg": "missing",
        "a/itself.jpg": "symlink_loop",
        "a/above": "symlink_loop",
        "a/pipe.jpg": "not_a_file",
        "a/socket.jpg": "not_a_file",
    }


def _noise(seed: int, *, height: int = 24, width: int = 20, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _encoded(image: Image.Image | np.ndarray, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def _picture(seed: int) -> bytes:
    return _encoded(_noise(seed), "PNG")


def _no_images() -> Iterator[Case]:
    page = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>no such file</body></html>"
    yield "empty.jpg", b"", "empty"
    contents = {
        "one_byte.jpg": b"\xff",
        "two_bytes.jpg": b"\xff\xd8",
        "text.jpg": b"this is not an image\n",
        "python.png": b"Python is a language, and P5 is a format.\n",
        "bmw.bmp": b"BMW builds cars, not bitmaps, and this is text.\n",
        "utf16.png": "text".encode("utf-16"),
        "not_found.png": page,
        "error.jpg": b'{"error": {"code": 403, "message": "expired"}}',
        "lfs_pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "drawing.png": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "photo.heic.jpg": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64),
        "photo.avif.png": b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf" + bytes(64),
        "film.jpg": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(64),
        "film.webp": b"RIFF\x40\x00\x00\x00AVI LIST" + bytes(60),
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/run) (w) file\nshowpage\n",
        "icon.png": _encoded(_noise(1), "ICO"),
        "zipped.jpg": gzip.compress(_encoded(_noise(2), "JPEG"), mtime=0),
        "archive.jpg": b"PK\x03\x04" + bytes(60),
        "photoshop.png": b"8BPS\x00\x01" + bytes(60),
        "jpeg2000.jpg": _encoded(_noise(3), "JPEG2000"),
        "newline_first.jpg": b"\n" + _encoded(_noise(4), "JPEG"),
        "zeros.jpg": bytes(4_096),
        "erased.png": b"\xff" * 512,
    }
    for name, data in contents.items():
        yield name, data, "not_an_image"


def _cut_off() -> Iterator[Case]:
    noise = _noise(10, height=64, width=64)
    whole = {
        "jpg": _encoded(noise, "JPEG"),
        "progressive.jpg": _encoded(noise, "JPEG", progressive=True),
        "png": _encoded(noise, "PNG"),
        "gif": _encoded(noise, "GIF"),
        "webp": _encoded(noise, "WEBP"),
        "lossless.webp": _encoded(noise, "WEBP", lossless=True),
        "tif": _encoded(noise, "TIFF"),
        "lzw.tif": _encoded(noise, "TIFF", compression="tiff_lzw"),
        "bmp": _encoded(noise, "BMP"),
    }
    for suffix, data in whole.items():
        for percent in (1, 50, 95):
            yield f"cut_{percent}.{suffix}", data[: max(20, len(data) * percent // 100)], "truncated"
    interlaced = png_bytes(64, 64, b"")
    yield "cut_interlaced.png", _interlaced(interlaced), "truncated"
    jpeg = whole["jpg"]
    scan = jpeg.index(b"\xff\xda") + 14
    yield "zeros_after_header.jpg", jpeg[:scan] + bytes(len(jpeg) - scan), "truncated"
    yield "marker_only.jpg", b"\xff\xd8\xff\xe0", "truncated"


def _interlaced(png: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 1)
    rows = zlib.compress(_noise(11, height=64, width=64).tobytes())
    return png[:8] + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows)[: len(rows) // 2]


def _bombs() -> Iterator[Case]:
    yield "bomb.png", png_bytes(60_000, 60_000, b""), "too_large"
    yield "bomb_long.png", png_bytes(2**31 - 1, 1, b""), "too_large"
    yield "bomb.gif", b"GIF89a\xff\xff\xff\xff\x00\x00\x00" + _encoded(_noise(20), "GIF")[13:], "too_large"
    yield "bomb.tif", tiff_bytes(60_000, 60_000, bytes(8)), "too_large"
    yield "bomb.jpg", with_size(_encoded(_noise(21), "JPEG"), 65_000, 65_000), "too_large"
    bitmap = bytearray(_encoded(_noise(22), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 60_000, 60_000)
    yield "bomb.bmp", bytes(bitmap), "too_large"
    inflating = zlib.compress(bytes(100 << 20), 1)
    rows = b"\x00\x01\x02\x03"
    for name, chunk in {
        "bomb_text": png_chunk(b"zTXt", b"Comment\x00\x00" + inflating),
        "bomb_unicode": png_chunk(b"iTXt", b"Comment\x00\x01\x00\x00\x00" + inflating),
        "bomb_profile": png_chunk(b"iCCP", b"profile\x00\x00" + inflating),
    }.items():
        yield f"{name}.png", png_bytes(1, 1, rows, before=[chunk]), "too_large"
        yield f"{name}_last.png", png_bytes(1, 1, rows, after=[chunk]), "too_large"


def _damaged() -> Iterator[Case]:
    jpeg, png = _encoded(_noise(30), "JPEG"), _encoded(_noise(31), "PNG")
    tables = jpeg.index(b"\xff\xc4")
    yield "no_huffman.jpg", jpeg[: tables + 5] + b"\xff" * 16 + jpeg[tables + 21 :], "unreadable"
    yield "lossless.jpg", jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1), "unreadable"
    yield "twelve_bits.jpg", jpeg.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c", 1), "unreadable"
    yield "hierarchical.jpg", jpeg.replace(b"\xff\xc0", b"\xff\xc5", 1), "unreadable"
    yield "no_height.jpg", with_size(jpeg, 0, 20), "unreadable"
    yield "no_width.jpg", with_size(jpeg, 20, 0), "unreadable"
    yield "too_high.jpg", with_size(jpeg, 65_535, 1), "unreadable"
    yield "second_start.jpg", jpeg[:2] + jpeg, "unreadable"
    yield "no_width.png", png_bytes(3, 0, b"\x00" * 3), "unreadable"
    yield "no_height.png", png_bytes(0, 3, b""), "unreadable"
    yield (
        "no_height.bmp",
        struct.pack("<2sLHHLLiiHHLLLLLL", b"BM", 54, 0, 0, 54, 40, 4, 0, 1, 24, 0, 0, 0, 0, 0, 0),
        ("unreadable"),
    )
    yield "header_crc.png", png[:30] + bytes([png[30] ^ 1]) + png[31:], "unreadable"
    pixels = png.index(b"IDAT") + 40
    yield "pixels.png", png[:pixels] + b"\xff\xff\xff\xff" + png[pixels + 4 :], "unreadable"
    yield "ascii_transfer.png", png.replace(b"\r\n", b"\n"), "unreadable"
    yield "no_frame.gif", b"GIF89a\x04\x00\x04\x00\x00\x00\x00;", "unreadable"
    yield "body.webp", _encoded(_noise(32), "WEBP")[:20] + bytes(200), "truncated"
    webp = _encoded(_noise(33), "WEBP")
    yield "zeros.webp", webp[:20] + bytes(len(webp) - 20), "unreadable"


def _deep() -> Iterator[Case]:
    yield "floats.tif", _encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "unsupported"
    yield "doubles.tif", tiff_bytes(1, 2, bytes(16), bits=64, sample_format=3), "unsupported"
    yield (
        "rgb_floats.tif",
        tiff_bytes(1, 1, bytes(12), bits=32, channels=3, photometric=2, sample_format=3),
        ("unsupported"),
    )
    yield "integers.tif", _encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), "unsupported"
    yield "lab.tif", tiff_bytes(1, 1, b"\x01\x02\x03", channels=3, photometric=8), "unsupported"


def _odd_but_whole() -> Iterator[Case]:
    accepted = {**_odd_jpegs(), **_odd_others()}
    for name, data in accepted.items():
        yield name, data, None


def _odd_jpegs() -> dict[str, bytes]:
    def jpeg(seed: int, **options: Any) -> bytes:
        return _encoded(_noise(seed), "JPEG", **options)

    nan, loop, huge = (0x0112, 11, 1, struct.pack(">f", float("nan"))), (0x8769, 4, 1, struct.pack(">L", 8)), 2**31
    return {
        "exif_nan.jpg": jpeg(40, exif=exif_bytes([nan])),
        "exif_loop.jpg": jpeg(41, exif=exif_bytes([loop], next_directory=8)),
        "exif_count.jpg": jpeg(42, exif=exif_bytes([(0x0112, 3, huge, b"\x00\x00\x00\x08")])),
        "exif_zero.jpg": jpeg(43, exif=exif_bytes([(0x0112, 3, 0, b"\x00\x00\x00\x00")])),
        "exif_empty.jpg": with_segment(jpeg(44), 0xE1, b"Exif\x00\x00"),
        "exif_orientation_99.jpg": jpeg(45, exif=exif_bytes([(0x0112, 3, 1, b"\x00\x63\x00\x00")])),
        "xmp.jpg": jpeg(46, xmp=b"<x tiff:Orientation='9999'" + b"<" * 999),
        "cmyk.jpg": _encoded(Image.fromarray(_noise(47, channels=4), "CMYK"), "JPEG"),
        "and_a_film.jpg": jpeg(48) + b"\x00\x00\x00\x18ftypisom" + bytes(99),
        "one_pixel.jpg": _encoded(_noise(49, height=1, width=1), "JPEG"),
        "tall.jpg": _encoded(_noise(50, height=65_500, width=1), "JPEG"),
        "arithmetic.jpg": jpeg(55).replace(b"\xff\xc0", b"\xff\xc9", 1),  # of this coding, any bits are an image
        "gray.jpg": _encoded(_noise(51)[..., 0], "JPEG"),
        "second_picture_gone.jpg": _encoded(
            Image.fromarray(_noise(52)), "MPO", save_all=True, append_images=[Image.fromarray(_noise(53))]
        )[:-200],
        "is_a_png.jpg": _picture(54),
    }


def _odd_others() -> dict[str, bytes]:
    frames = [Image.fromarray(_noise(60 + i)) for i in range(3)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    deep = np.random.default_rng(63).integers(0, 2**16, (5, 4), dtype=np.uint16)
    return {
        "moving.gif": _encoded(frames[0], "GIF", **moving),
        "moving.webp": _encoded(frames[0], "WEBP", **moving),
        "moving.png": _encoded(frames[0], "PNG", **moving),
        "sixteen_bits.png": _encoded(Image.fromarray(deep), "PNG"),
        "sixteen_bits.tif": tiff_bytes(1, 2, bytes(range(12)), bits=16, channels=3, photometric=2),
        "short_palette.png": png_bytes(
            1, 4, b"\x00\x00\x01\x02\x03", color_type=3, before=[png_chunk(b"PLTE", b"\xff\x00\x00" * 2)]
        ),
        "one_pixel.png": _encoded(_noise(64, height=1, width=1), "PNG"),
        "and_more.png": _picture(65) + b"PK\x03\x04" + bytes(99),
        "no_end.png": _picture(66)[:-12],
        "directory_loop.tif": tiff_bytes(2, 2, b"\x01\x02\x03\x04", next_directory=8),
        "top_down.bmp": struct.pack("<2sLHHLLiiHHLLLLLL", b"BM", 58, 0, 0, 54, 40, 1, -1, 1, 24, 0, 4, 0, 0, 0, 0)
        + b"\x01\x02\x03\x00",
    }
