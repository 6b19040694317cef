"""Which JPEGs are plain: their header needs no reading by Pillow, which would read it, too."""

import io
import random
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from kd_ray.corpus.images.decode import MAX_PIXELS, BadImage, decode, open_image, orientation_of
from kd_ray.corpus.images.jpeg import APP0, DQT, SOF0, SOS, is_one_scan, is_plain, segments
from tests.support.corpus_files import encoded, noise

PHOTO_HW3 = noise(9, height=33, width=47)


def plain(data: bytes) -> bool:
    return is_plain(data, max_pixels=MAX_PIXELS)


def changed(marker: int, at: int, value: int) -> bytes:
    """A plain JPEG with one byte of its first segment of `marker` changed, counted from the marker."""
    data = bytearray(encoded(PHOTO_HW3, "JPEG"))
    start = next(start for found, start, _ in segments(bytes(data)) if found == marker)
    data[start + at] = value
    return bytes(data)


class TestPlain:
    @pytest.mark.parametrize(
        "options", [{}, {"subsampling": 0}, {"quality": 20}, {"optimize": True}, {"restart_marker_blocks": 2}]
    )
    def test_what_pillow_writes_is_plain(self, options):
        assert plain(encoded(PHOTO_HW3, "JPEG", **options))
        assert plain(encoded(PHOTO_HW3[..., 0], "JPEG", **options))

    def test_what_opencv_writes_is_plain(self):
        _, data = cv2.imencode(".jpg", PHOTO_HW3)
        assert plain(data.tobytes())

    @pytest.mark.parametrize(
        "options",
        [
            {"progressive": True},
            {"comment": b"text"},
            {"exif": b"Exif\0\0MM\0\x2a\0\0\0\x08\0\0"},
            {"icc_profile": b"x"},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_what_has_more_to_it_is_left_to_pillow(self, options):
        assert not plain(encoded(PHOTO_HW3, "JPEG", **options))

    def test_four_channels_are_left_to_pillow(self):
        assert not plain(encoded(Image.new("CMYK", (8, 8)), "JPEG"))

    @pytest.mark.parametrize(
        ("marker", "at", "value"),
        [
            (SOF0, 4, 12),  # bits
            (SOF0, 9, 1),  # channels that the segment's length belies
            (SOF0, 9, 2),
            (SOF0, 3, 14),  # the length itself
            (SOF0, 1, 0xC3),  # another process: lossless
            (DQT, 4, 0x10),  # a table of 16 bits
            (DQT, 3, 66),  # a table that is cut
            (APP0, 3, 6),  # too short for what Pillow reads of it
            (SOS, 1, 0xFE),  # a comment instead of a scan
        ],
    )
    def test_a_header_that_is_not_as_it_should_be_is_left_to_pillow(self, marker, at, value):
        assert not plain(changed(marker, at, value))

    def test_no_height_and_too_many_pixels_are_left_to_pillow(self):
        data = encoded(PHOTO_HW3, "JPEG")
        assert is_plain(data, max_pixels=33 * 47)
        assert not is_plain(data, max_pixels=33 * 47 - 1)
        assert not plain(data.replace(b"\x08\x00\x21\x00\x2f", b"\x08\x00\x00\x00\x2f"))

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\x00\x02", b"text"])
    def test_a_start_is_not_plain(self, data):
        assert not plain(data)


def test_a_damaged_header_that_is_plain_is_read_by_pillow_alike():
    """Bytes changed, lost and added in the first 640: where `is_plain` speaks, Pillow agrees, down to the pixels."""
    rng = random.Random(0)
    whole = encoded(PHOTO_HW3, "JPEG")
    endings = Counter()
    for _ in range(500):
        data = bytearray(whole)
        at = rng.randrange(2, 640)
        match rng.randrange(4):
            case 0:
                del data[at]
            case 1:
                data.insert(at, rng.randrange(256))
            case _:
                data[at] = rng.choice([rng.randrange(256), 0, 255, data[at] ^ 1 << rng.randrange(8)])
        damaged = bytes(data)
        if not (plain(damaged) and is_one_scan(damaged)):
            endings["left to Pillow"] += 1
            continue
        image = open_image(damaged)
        assert image.mode == "RGB"
        assert orientation_of(image, damaged) == 1
        try:
            expected_HW3 = np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB"))
        except OSError:
            with pytest.raises(BadImage):
                decode(damaged)
            endings["refused"] += 1
        else:
            np.testing.assert_array_equal(decode(damaged), expected_HW3)
            endings["read"] += 1
    assert min(endings.values()) >= 10, endings
    assert len(endings) == 3


class TestOneScan:
    def test_a_marker_inside_is_not_one_scan(self):
        data = encoded(PHOTO_HW3, "JPEG")
        assert is_one_scan(data)
        assert not is_one_scan(encoded(PHOTO_HW3, "JPEG", restart_marker_blocks=2))
        assert not is_one_scan(encoded(PHOTO_HW3, "JPEG", progressive=True))
        for marker in (b"\xff\xd0", b"\xff\xff", b"\xff\xd9"):
            assert not is_one_scan(data[:-50] + marker + data[-48:])
            assert not is_one_scan(data[:-4] + marker + data[-2:])
        assert is_one_scan(data[:-4] + b"\xff\x00" + data[-2:])

    def test_without_its_end_it_is_none(self):
        data = encoded(PHOTO_HW3, "JPEG")
        scan = next(stop for marker, _, stop in segments(data) if marker == SOS)
        assert not is_one_scan(data[:-1])
        assert not is_one_scan(data[: scan - 2] + b"\xff\xd9")
        assert is_one_scan(data[:scan] + b"\xff\xd9")
