"""What is checked without decoding is what decoding gives, on thousands of damaged files."""

import random
import time
from collections.abc import Callable

import pytest
from PIL import Image

from kd_ray.corpus.images.check import check
from kd_ray.corpus.images.decode import BadImage, decode
from kd_ray.corpus.images.jpeg import SOS, segments
from tests.support.corpus_files import encoded, noise
from tests.support.hostile import hostile_bytes
from tests.support.shared_data import shared_data

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def outcome(function: Callable[[bytes], tuple[int, ...]], data: bytes) -> tuple[int, ...] | str:
    try:
        return function(data)[:2]
    except BadImage as error:
        return error.reason


def decoded_shape(data: bytes) -> tuple[int, ...]:
    return decode(data).shape


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = "a description of the image"
    return block.tobytes()


def jpegs() -> list[bytes]:
    """Every way to write an ordinary JPEG, small, and one whose scan takes several reads."""
    smooth = Image.fromarray(noise(1, height=9, width=11)).resize((61, 37))
    rough = Image.fromarray(noise(2, height=48, width=33))
    found = []
    for image in (smooth, rough, smooth.resize((1, 1)), smooth.resize((17, 8))):
        found += [encoded(image, "JPEG", quality=q, subsampling=s) for q in (30, 95) for s in (0, 1, 2)]
        found += [encoded(image, "JPEG", restart_marker_blocks=n) for n in (1, 3)]
        found += [
            encoded(image, "JPEG", optimize=True),
            encoded(image, "JPEG", restart_marker_rows=1, subsampling=2),
            encoded(image, "JPEG", progressive=True),
            encoded(image, "JPEG", keep_rgb=True),
            encoded(image, "JPEG", comment=b"\xff\xd9 not the end"),
            encoded(image, "JPEG", icc_profile=bytes(range(256)) * 3),
            encoded(image.convert("L"), "JPEG"),
            encoded(image.convert("L"), "JPEG", exif=exif(6)),
            encoded(image.convert("CMYK"), "JPEG"),
            encoded(image, "JPEG", xmp=XMP % 8),
            *(encoded(image, "JPEG", exif=exif(orientation)) for orientation in range(1, 10)),
        ]
    return [*found, encoded(noise(3, height=220, width=260), "JPEG", quality=98)]


def scan_start(data: bytes) -> int:
    return next(stop for marker, _, stop in segments(data) if marker == SOS)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with its headers or its scan damaged in one to four places, in most cases with its end in place."""
    body = scan_start(data)
    start, stop = rng.choice([(0, body), (body, len(data)), (body, len(data)), (0, len(data))])
    mutable = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(start, max(start + 1, min(stop, len(mutable))))
        match rng.randrange(9):
            case 0 | 1:
                mutable[at : at + 1] = bytes([mutable[at] ^ 1 << rng.randrange(8)]) if at < len(mutable) else b""
            case 2:
                mutable[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                mutable[at:at] = rng.randbytes(rng.randint(1, 9))
            case 4:
                del mutable[at : at + rng.randint(1, 20)]
            case 5:
                length = rng.randint(1, 40)
                mutable[at : at + length] = bytes(len(mutable[at : at + length]))
            case 6:
                mutable[at : at + 2] = bytes([0xFF, rng.randrange(256)])
            case 7:
                source = rng.randrange(len(mutable))
                mutable[at:at] = mutable[source : source + rng.randint(1, 60)]
            case _ if rng.random() < 0.3:
                del mutable[max(at, 4) :]
        if len(mutable) < 4:
            break
    if rng.random() < 0.7 and not mutable.endswith(b"\xff\xd9"):
        mutable += b"\xff\xd9"
    return bytes(mutable)


def disagreements(*, seed: int, count: int) -> tuple[list[tuple[object, ...]], int]:
    """Where `check` and `decode` differ over `count` damaged JPEGs, and how many of them decode."""
    rng = random.Random(seed)
    whole = jpegs()
    found: list[tuple[object, ...]] = []
    num_decoded = 0
    for _ in range(count):
        data = damaged(rng.choice(whole[:-1]) if rng.random() < 0.98 else whole[-1], rng)
        checked, decoded = outcome(check, data), outcome(decoded_shape, data)
        num_decoded += not isinstance(decoded, str)
        if checked != decoded:
            found.append((data.hex()[:4000], checked, decoded))
    return found, num_decoded


class TestWholeFiles:
    def test_every_kind_of_jpeg_has_the_size_that_it_decodes_to(self):
        for data in jpegs():
            assert check(data) == decode(data).shape[:2]

    @pytest.mark.parametrize("image_format", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
    def test_other_formats_have_the_size_that_they_decode_to(self, image_format):
        data = encoded(noise(4, height=7, width=3), image_format)
        assert check(data) == (7, 3)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_photographs_on_their_side_are_upright(self, orientation):
        data = shared_data("photos/exif_orientation").joinpath(f"Landscape_{orientation}.jpg").read_bytes()
        assert check(data) == decode(data).shape[:2]

    def test_a_camvid_photograph_costs_a_tenth_of_decoding_it(self):
        data = next(shared_data("camvid/test/images").glob("*.jpg")).read_bytes()
        assert _fastest_s(check, data) < _fastest_s(decode, data) / 10


class TestDamagedFiles:
    def test_damage_is_found_where_decoding_finds_it(self):
        found, num_decoded = disagreements(seed=1, count=4_000)
        assert found == []
        assert 400 < num_decoded < 3_600  # both answers occur

    @pytest.mark.slow
    def test_damage_is_found_where_decoding_finds_it_100_000_times(self):
        assert disagreements(seed=2, count=100_000)[0] == []

    def test_a_jpeg_cut_anywhere_is_refused_where_decoding_refuses_it(self):
        data = encoded(noise(5, height=20, width=31), "JPEG", exif=exif(5))
        for length in range(len(data)):
            assert outcome(check, data[:length]) == outcome(decoded_shape, data[:length])

    def test_a_marker_within_the_scan_is_judged_by_decoding(self):
        data = encoded(noise(6, height=64, width=64), "JPEG")
        middle = (scan_start(data) + len(data)) // 2
        for marker in range(1, 256):
            patched = data[:middle] + bytes([0xFF, marker]) + data[middle + 2 :]
            assert outcome(check, patched) == outcome(decoded_shape, patched), hex(marker)

    def test_sides_beyond_libjpegs_limit_are_judged_by_decoding(self):
        data = encoded(noise(7), "JPEG")
        frame = data.index(b"\xff\xc0")
        for height, width in ((0, 5), (5, 0), (65_500, 1), (65_501, 1), (1, 65_535), (20_000, 20_000)):
            patched = data[: frame + 5] + height.to_bytes(2) + width.to_bytes(2) + data[frame + 9 :]
            assert outcome(check, patched) == outcome(decoded_shape, patched), (height, width)

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_hostile_files_are_refused_where_decoding_refuses_them(self):
        for name, (data, _) in hostile_bytes().items():
            assert outcome(check, data) == outcome(decoded_shape, data), name


def _fastest_s(function: Callable[[bytes], object], data: bytes) -> float:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        function(data)
        times.append(time.perf_counter() - start)
    return min(times)
