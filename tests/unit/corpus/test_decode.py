"""Every kind of image has one meaning, and hostile bytes end in a BadImage with the right word."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from corpus_files import encoded, noise, shared
from PIL import Image

from kd_ray.corpus.decode import MAX_PIXELS, UPRIGHT, BadImage, decode, image_size_px
from kd_ray.errors import CorpusError


def png_of_size(height: int, width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def oriented(image_HWC: np.ndarray, orientation: int, image_format: str) -> bytes:
    """Bytes that show `image_HWC` once the orientation in their EXIF block is applied."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    image = Image.fromarray(image_HWC)
    stored = image.transpose(UPRIGHT[inverse]) if inverse in UPRIGHT else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, image_format, exif=exif, **({"lossless": True} if image_format == "WEBP" else {}))


class TestMeaning:
    def test_png_gives_its_own_pixels_writable(self):
        image_HWC = noise(0)
        pixels_HWC = decode(encoded(image_HWC))
        np.testing.assert_array_equal(pixels_HWC, image_HWC)
        assert pixels_HWC.dtype == np.uint8
        assert pixels_HWC.flags.writeable
        assert pixels_HWC.flags.c_contiguous

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
    def test_exif_orientations_are_upright_alike(self, orientation, image_format):
        image_HWC = noise(1, height=7, width=4)
        data = oriented(image_HWC, orientation, image_format)
        np.testing.assert_array_equal(decode(data), image_HWC)
        assert image_size_px(data) == (7, 4)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientations_of_jpeg(self, orientation):
        image_HWC = np.zeros((16, 32, 3), np.uint8)
        image_HWC[:8, :8] = 255  # one white corner: 8x8 blocks survive JPEG
        data = oriented(image_HWC, orientation, "JPEG")
        np.testing.assert_allclose(decode(data).astype(int), image_HWC, atol=2)
        assert image_size_px(data) == (16, 32)

    def test_exif_that_cannot_be_parsed_counts_as_upright(self):
        image_HWC = noise(2)
        data = encoded(image_HWC, exif=b"Exif\0\0MM\0\x2a\xff\xff")
        np.testing.assert_array_equal(decode(data), image_HWC)

    def test_grayscale_is_repeated(self):
        gray_HW = noise(3)[..., 0]
        np.testing.assert_array_equal(decode(encoded(gray_HW)), np.repeat(gray_HW[..., None], 3, axis=2))

    def test_sixteen_bits_keep_the_upper_eight(self):
        gray_HW = np.array([[0, 255, 256], [257, 65_279, 65_535]], np.uint16)
        for image_format in ("PNG", "TIFF", "PPM"):
            decoded_HW = decode(encoded(Image.fromarray(gray_HW), image_format))[..., 0]
            np.testing.assert_array_equal(decoded_HW, gray_HW >> 8, err_msg=image_format)

    def test_alpha_is_composited_over_white(self):
        rgba_HWC = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 127]]], np.uint8)
        np.testing.assert_array_equal(decode(encoded(rgba_HWC))[0], [[255] * 3, [10, 20, 30], [128] * 3])

    @pytest.mark.parametrize("mode", ["LA", "PA", "L", "RGB", "P"])
    def test_transparency_of_other_modes_is_white_too(self, mode):
        if mode == "LA":
            data = encoded(Image.new("LA", (2, 2), (0, 0)))
        elif mode == "PA":
            data = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert("P"), transparency=0)
        else:
            black = (0, 0, 0) if mode == "RGB" else 0
            data = encoded(Image.new(mode, (2, 2), black), transparency=black)
        np.testing.assert_array_equal(decode(data), np.full((2, 2, 3), 255))

    def test_transparent_palette_entries_given_as_bytes(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        np.testing.assert_array_equal(decode(encoded(image, transparency=b"\x00\xff"))[0], [[255] * 3, [0, 0, 255]])

    def test_cmyk_jpeg(self):
        image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
        np.testing.assert_allclose(decode(encoded(image, "JPEG")).astype(int), np.tile([255, 0, 0], (8, 8, 1)), atol=3)

    @pytest.mark.parametrize("image_format", ["GIF", "WEBP", "TIFF"])
    def test_first_frame_of_an_animation(self, image_format):
        frames = [Image.new("RGB", (4, 3), color) for color in ("white", "black")]
        options = {"lossless": True} if image_format == "WEBP" else {}
        data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), np.full((3, 4, 3), 255))

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_32_bits_are_refused(self, dtype):
        with pytest.raises(BadImage, match="no 8-bit meaning"):
            decode(encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF"))

    def test_exif_photographs_look_alike(self):
        photos = [path.read_bytes() for path in sorted(shared("photos", "exif_orientation").glob("*.jpg"))]
        assert len(photos) == 9
        first_HWC = decode(photos[0]).astype(int)
        for data in photos:
            assert image_size_px(data) == first_HWC.shape[:2]
            # The nine were compressed one by one: up to 4.3 apart; wrong turns differ by 73 to 88.
            assert np.abs(decode(data) - first_HWC).mean() < 8


class TestHostileInput:
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    def test_every_cut_is_refused_or_harmless(self, image_format):
        data = encoded(noise(4, height=20, width=20), image_format)
        whole_HWC = decode(data)
        for length in range(0, len(data), 7):
            try:
                cut_HWC = decode(data[:length])
            except BadImage:
                continue
            # Only trailers may be missing (JPEG's end marker, GIF's last block).
            np.testing.assert_array_equal(cut_HWC, whole_HWC)

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
    def test_half_an_image_is_truncated(self, image_format):
        data = encoded(noise(5, height=64, width=64), image_format)
        with pytest.raises(BadImage) as caught:
            decode(data[: len(data) // 2])
        assert caught.value.reason == "truncated"

    def test_no_bytes_are_empty(self):
        for function in (decode, image_size_px):
            with pytest.raises(BadImage) as caught:
                function(b"")
            assert caught.value.reason == "empty"

    def test_text_is_unreadable(self):
        with pytest.raises(BadImage, match=r"unreadable: 11 bytes starting b'not an i'"):
            decode(b"not an imag")

    @pytest.mark.parametrize("factor", [1.01, 3, 500])
    def test_decompression_bomb_is_too_large_by_its_header_alone(self, factor):
        data = png_of_size(10_000, int(MAX_PIXELS * factor / 10_000) + 1)
        for function in (decode, image_size_px):
            with pytest.raises(BadImage) as caught:
                function(data)
            assert caught.value.reason == "too_large"

    def test_the_limit_does_not_depend_on_pillows_global(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(BadImage, match="too_large"):
            image_size_px(png_of_size(10_000, 10_000))

    def test_postscript_is_not_run(self):
        with pytest.raises(BadImage, match="unreadable"):
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")

    def test_size_comes_from_the_header(self):
        data = encoded(noise(6, height=300, width=200))
        assert image_size_px(data[:100]) == (300, 200)

    def test_it_pickles_whole(self):
        error = pickle.loads(pickle.dumps(BadImage("truncated", "why")))
        assert isinstance(error, CorpusError)
        assert (error.reason, str(error)) == ("truncated", "truncated: why")
