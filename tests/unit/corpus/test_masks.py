"""Masks are class indices, exactly as stored; whatever would change them is refused."""

import numpy as np
import pytest
from PIL import Image

from kd_ray.corpus.images.decode import BadImage
from kd_ray.corpus.images.masks import check_mask, decode_mask
from tests.support.corpus_files import encoded, noise
from tests.support.image_bytes import png_bytes, png_chunk, tiff_bytes
from tests.support.shared_data import shared_data

INDICES_HW = np.array([[0, 1, 2], [11, 254, 255]], np.uint8)
AS_IT_IS = {"optimize": False}  # Pillow's GIF writer would number the colours anew


def with_palette(indices_HW: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices_HW)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tolist())
    return image


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_gray_values_are_indices(image_format):
    mask_HW = decode_mask(encoded(INDICES_HW, image_format, **AS_IT_IS))
    np.testing.assert_array_equal(mask_HW, INDICES_HW)
    assert mask_HW.dtype == np.uint8


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_palettes_give_indices_not_colors(image_format):
    data = encoded(with_palette(INDICES_HW), image_format, **AS_IT_IS)
    np.testing.assert_array_equal(decode_mask(data), INDICES_HW)


def test_transparent_palette_entries_change_nothing():
    data = encoded(with_palette(INDICES_HW), transparency=bytes(256))
    np.testing.assert_array_equal(decode_mask(data), INDICES_HW)


@pytest.mark.parametrize("color_type", [0, 3])
@pytest.mark.parametrize(("bits", "indices"), [(1, [0, 0, 0, 1, 1, 0, 1, 1]), (2, [0, 1, 2, 3]), (4, [1, 11])])
def test_few_bits_are_not_spread(bits, indices, color_type):
    palette = [png_chunk(b"PLTE", bytes(3 * 16))] if color_type == 3 else []
    data = png_bytes(1, len(indices), b"\x00\x1b", bits=bits, color_type=color_type, before=palette)
    assert decode_mask(data).tolist() == [indices]


@pytest.mark.parametrize(("bits", "indices"), [(1, [0, 0, 0, 1, 1, 0, 1, 1]), (2, [0, 1, 2, 3]), (4, [1, 11])])
def test_few_bits_of_a_tiff_are_not_spread(bits, indices):
    assert decode_mask(tiff_bytes(1, len(indices), b"\x1b", bits=bits)).tolist() == [indices]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_stay_sixteen_bits(image_format):
    indices_HW = np.array([[0, 255, 256, 65_535]], np.uint16)
    mask_HW = decode_mask(encoded(Image.fromarray(indices_HW), image_format))
    np.testing.assert_array_equal(mask_HW, indices_HW)
    assert mask_HW.dtype == np.uint16


def test_big_endian_tiff_comes_in_the_order_of_this_machine():
    mask_HW = decode_mask(tiff_bytes(1, 2, b"\x01\x02\x03\x04", bits=16, order=">"))
    assert mask_HW.tolist() == [[0x0102, 0x0304]]
    assert mask_HW.dtype == np.uint16


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode_mask(encoded(INDICES_HW, exif=exif)), INDICES_HW)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the mask is empty"),
        (b"<html>", "the mask is not_an_image"),
        (encoded(INDICES_HW)[:50], "the mask is truncated"),
        (encoded(noise(0)), "mode RGB are no class indices"),
        (encoded(Image.new("RGBA", (2, 2))), "mode RGBA"),
        (encoded(Image.new("LA", (2, 2))), "mode LA"),
        (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "mode F"),
        (encoded(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"), "mode I"),
        (encoded(INDICES_HW, "JPEG"), "JPEG changes class indices"),
        (tiff_bytes(1, 2, b"\x00\x01", photometric=0), "in negative"),
        (b"P5 2 1 15\n\x00\x01", "scaled by its maximum"),
        (b"P4 8 1\n\x0f", "a PBM"),
    ],
)
def test_what_is_no_index_is_a_bad_mask(data, why):
    with pytest.raises(BadImage, match=why) as caught:
        decode_mask(data)
    assert caught.value.reason == "bad_mask"


def test_a_checked_mask_has_the_size_of_the_decoded_one():
    assert check_mask(encoded(INDICES_HW)) == (2, 3)
    with pytest.raises(BadImage, match="bad_mask"):
        check_mask(encoded(INDICES_HW)[:-30])


def test_camvid_masks_hold_classes_0_to_11():
    masks = [path.read_bytes() for path in sorted(shared_data("camvid/val/masks").iterdir())[:5]]
    assert {check_mask(data) for data in masks} == {(360, 480)}
    assert set().union(*(np.unique(decode_mask(data)).tolist() for data in masks)) <= set(range(12))
