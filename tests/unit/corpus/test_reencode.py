"""Re-encoding shrinks, never enlarges, and gives the same bytes for the same bytes."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from kd_ray.config.corpus import Reencode
from kd_ray.corpus.images.check import check
from kd_ray.corpus.images.decode import BadImage, decode
from kd_ray.corpus.images.masks import decode_mask
from kd_ray.corpus.images.reencode import can_be_stored, reencode, reencode_mask, size_within
from tests.support.corpus_files import encoded, noise

LONGEST_32 = Reencode(longest_side_px=32, format="png")
SIDES = st.integers(1, 5_000)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@given(height=SIDES, width=SIDES, limit=SIDES)
def test_no_side_grows_and_the_limited_one_meets_the_limit(height, width, limit):
    for key, pick in (("longest_side_px", max), ("shortest_side_px", min)):
        new = size_within(height, width, Reencode(**{key: limit}))
        assert pick(new) == min(limit, pick(height, width))
        assert 1 <= new[0] <= height
        assert 1 <= new[1] <= width


@given(height=SIDES, width=SIDES, limit=SIDES)
def test_the_aspect_ratio_stays_within_half_a_pixel(height, width, limit):
    new_height, new_width = size_within(height, width, Reencode(longest_side_px=limit))
    if height >= width:
        assert new_width == 1 or abs(new_width - width * new_height / height) <= 0.5
    else:
        assert new_height == 1 or abs(new_height - height * new_width / width) <= 0.5


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_what_is_within_the_limit_keeps_its_bytes(image_format):
    data = encoded(noise(0, height=32, width=20), image_format)
    assert reencode(data, LONGEST_32) is data


def test_pixels_are_pillows_lanczos_of_the_upright_image():
    image_HWC = noise(1, height=40, width=64)
    expected = Image.fromarray(image_HWC).resize((32, 20), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode(reencode(encoded(image_HWC), LONGEST_32)), np.asarray(expected))


def test_images_on_their_side_are_stored_upright_without_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    smaller = reencode(encoded(noise(2, height=40, width=64), "JPEG", exif=exif), LONGEST_32)
    assert decode(smaller).shape == (32, 20, 3)
    assert not opened(smaller).getexif()


@pytest.mark.parametrize("written", ["jpeg", "webp", "png"])
def test_the_format_is_the_one_asked_for_without_metadata(written):
    source = encoded(noise(3, height=40, width=64), "JPEG", comment=b"private", icc_profile=b"private" * 40)
    settings = Reencode(longest_side_px=32, format=written)
    smaller = reencode(source, settings)
    assert opened(smaller).format == written.upper()
    assert b"private" not in smaller
    assert smaller == reencode(source, settings)


def test_jpeg_keeps_full_color_resolution():
    smaller = opened(reencode(encoded(noise(4, height=40, width=64)), Reencode(longest_side_px=32)))
    assert isinstance(smaller, JpegImagePlugin.JpegImageFile)
    assert JpegImagePlugin.get_sampling(smaller) == 0


@pytest.mark.parametrize("written", ["jpeg", "webp"])
def test_quality_decides_the_size(written):
    data = encoded(noise(5, height=80, width=80))
    sizes = [len(reencode(data, Reencode(longest_side_px=64, format=written, quality=q))) for q in (20, 60, 95)]
    assert sizes == sorted(set(sizes))


def test_alpha_is_white_in_what_is_stored():
    data = encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    assert decode(reencode(data, LONGEST_32)).min() == 255


def test_a_line_keeps_a_pixel_of_width():
    assert decode(reencode(encoded(noise(6, height=1, width=500)), LONGEST_32)).shape == (1, 32, 3)


@pytest.mark.parametrize(
    ("settings", "size_px", "fits"),
    [
        ({"shortest_side_px": 10, "format": "webp"}, (20, 2 * 16_383), True),
        ({"shortest_side_px": 10, "format": "webp"}, (20, 2 * 16_384), False),
        ({"shortest_side_px": 10, "format": "webp"}, (2 * 16_384, 20), False),
        ({"shortest_side_px": 10, "format": "webp"}, (10, 70_000), True),  # keeps its bytes
        ({"longest_side_px": 16_384, "format": "webp"}, (10, 70_000), False),
        ({"shortest_side_px": 10, "format": "jpeg"}, (20, 2 * 65_500), True),
        ({"shortest_side_px": 10, "format": "jpeg"}, (20, 2 * 65_501), False),
        ({"shortest_side_px": 10, "format": "png"}, (20, 2 * 65_501), True),
    ],
)
def test_sides_beyond_the_format_cannot_be_stored(settings, size_px, fits):
    assert can_be_stored(size_px, Reencode(**settings)) is fits


@pytest.mark.parametrize(("written", "longest"), [("webp", 16_383), ("jpeg", 65_500), ("png", 65_501)])
def test_the_longest_sides_are_stored(written, longest):
    settings = Reencode(shortest_side_px=1, format=written)
    for height, width in ((2, 2 * longest), (2 * longest, 2)):
        data = encoded(Image.new("L", (width, height)))
        assert check(reencode(data, settings)) == (height // 2, width // 2)


@pytest.mark.parametrize(("written", "too_long"), [("webp", 16_384), ("jpeg", 65_501)])
def test_longer_sides_are_too_large(written, too_long):
    with pytest.raises(BadImage, match=r"too_large: .* after re-encoding"):
        reencode(encoded(Image.new("L", (2 * too_long, 2))), Reencode(shortest_side_px=1, format=written))


def test_a_bad_image_is_refused():
    with pytest.raises(BadImage, match="truncated"):
        reencode(encoded(noise(7, height=64, width=64))[:3_000], LONGEST_32)


class TestMasks:
    def test_a_mask_of_that_size_keeps_its_bytes(self):
        data = encoded(noise(8)[..., 0])
        assert reencode_mask(data, (6, 5)) is data

    @pytest.mark.parametrize("size_px", [(3, 4), (1, 1), (13, 2), (12, 10)])
    def test_indices_are_pillows_nearest_neighbours(self, size_px):
        mask_HW = noise(9)[..., 0]
        expected = Image.fromarray(mask_HW).resize(size_px[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(decode_mask(reencode_mask(encoded(mask_HW), size_px)), np.asarray(expected))

    def test_sixteen_bits_stay_sixteen_bits(self):
        mask_HW = np.arange(600, dtype=np.uint16).reshape(20, 30)
        smaller_HW = decode_mask(reencode_mask(encoded(Image.fromarray(mask_HW)), (10, 15)))
        assert smaller_HW.dtype == np.uint16
        np.testing.assert_array_equal(smaller_HW, mask_HW[1::2, 1::2])

    def test_indices_beyond_a_short_palette_survive(self):
        image = Image.fromarray(np.tile(np.array([0, 1, 255], np.uint8), (3, 1)))
        image.putpalette([0, 0, 0, 255, 0, 0])
        data = encoded(image, "BMP")
        assert set(np.unique(decode_mask(reencode_mask(data, (2, 3)))).tolist()) == {0, 1, 255}

    def test_a_bad_mask_is_refused(self):
        with pytest.raises(BadImage, match="bad_mask"):
            reencode_mask(encoded(noise(10)), (2, 2))
