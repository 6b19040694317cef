"""Every kind of image has one meaning, and hostile bytes end in a BadImage with the right word."""

import io
import pickle
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from kd_ray.corpus.images.decode import MAX_PIXELS, UPRIGHT, BadImage, decode, image_size_px
from kd_ray.corpus.images.masks import decode_mask
from kd_ray.errors import CorpusError
from tests.support.corpus_files import encoded, noise
from tests.support.hostile import hostile_bytes
from tests.support.image_bytes import png_bytes, png_chunk, tiff_bytes
from tests.support.shared_data import shared_data


def reason_of(data: bytes) -> str | None:
    """Why `data` is refused; None where it is not."""
    try:
        decode(data)
    except BadImage as error:
        return error.reason
    return None


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

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_gray_levels_are_spread_from_black_to_white(self, bits):
        data = png_bytes(1, 8 // bits, b"\x00\x1b", bits=bits, color_type=0)
        levels = {1: [0, 0, 0, 1, 1, 0, 1, 1], 2: [0, 1, 2, 3], 4: [1, 11]}[bits]
        assert decode(data)[0, :, 0].tolist() == [level * 255 // (2**bits - 1) for level in levels]

    def test_sixteen_bits_keep_the_upper_eight(self):
        gray_HW = np.array([[0, 255, 256], [257, 65_279, 65_535]], np.uint16)
        for image_format in ("PNG", "TIFF", "PPM"):
            decoded_HW = decode(encoded(Image.fromarray(gray_HW), image_format))[..., 0]
            np.testing.assert_array_equal(decoded_HW, gray_HW >> 8, err_msg=image_format)

    def test_sixteen_bits_with_alpha_keep_the_upper_eight_over_white(self):
        rgba_HWC = np.array([[[0x1234, 0xFF00, 5, 0xFFFF], [0x1234, 0xFF00, 5, 0]]], np.uint16)
        big = b"\x00" + rgba_HWC.astype(">u2").tobytes()
        little = rgba_HWC.tobytes()
        expected = [[0x12, 0xFF, 0], [255] * 3]
        assert decode(png_bytes(1, 2, big, bits=16, color_type=6))[0].tolist() == expected
        for order, pixels in (("<", little), (">", big[1:])):
            data = tiff_bytes(1, 2, pixels, bits=16, channels=4, photometric=2, order=order, extra=[(338, 3, (2,))])
            assert decode(data)[0].tolist() == expected, order

    def test_sixteen_bits_of_color_keep_the_upper_eight(self):
        rgb_HWC = np.array([[[0x1234, 0xFF00, 5], [0, 0x80FF, 0xFFFF]]], np.uint16)
        expected = [[0x12, 0xFF, 0], [0, 0x80, 0xFF]]
        assert decode(png_bytes(1, 2, b"\x00" + rgb_HWC.astype(">u2").tobytes(), bits=16))[0].tolist() == expected
        for order in "<>":
            pixels = rgb_HWC.astype(f"{order}u2").tobytes()
            data = tiff_bytes(1, 2, pixels, bits=16, channels=3, photometric=2, order=order)
            assert decode(data)[0].tolist() == expected, order

    def test_sixteen_bits_of_gray_and_alpha(self):
        row = b"\x00" + np.array([0xFFFF, 0xFFFF, 0x1000, 0], ">u2").tobytes()
        assert decode(png_bytes(1, 2, row, bits=16, color_type=4))[0, :, 0].tolist() == [255, 255]

    def test_a_transparent_gray_of_sixteen_bits_is_matched_exactly(self):
        row = b"\x00" + np.array([256, 511], ">u2").tobytes()
        data = png_bytes(1, 2, row, bits=16, color_type=0, before=[png_chunk(b"tRNS", b"\x01\x00")])
        assert decode(data)[0, :, 0].tolist() == [255, 1]

    def test_twelve_bits_keep_the_upper_eight(self):
        assert decode(tiff_bytes(1, 2, b"\xff\xf8\x00", bits=12))[0, :, 0].tolist() == [255, 128]

    @pytest.mark.parametrize(("bits", "pixels"), [(8, b"\x00\xf0"), (16, b"\x00\x00\x00\xf0")])
    def test_tiff_in_negative_is_turned_positive(self, bits, pixels):
        assert decode(tiff_bytes(1, 2, pixels, bits=bits, photometric=0))[0, :, 0].tolist() == [255, 15]

    def test_an_orientation_in_xmp_alone_is_applied(self):
        data = encoded(noise(9, height=4, width=7), "JPEG", xmp=b'<x tiff:Orientation="6"/>')
        assert decode(data).shape == (7, 4, 3)

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

    def test_cmyk_tiff(self):
        assert decode(tiff_bytes(1, 1, b"\x00\xff\xff\x00", channels=4, photometric=5))[0, 0].tolist() == [255, 0, 0]

    def test_ycck_jpeg_is_told_from_cmyk_by_its_adobe_marker(self):
        cmyk = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
        transform = cmyk.index(b"Adobe") + 11
        assert cmyk[transform] == 0
        ycck = cmyk[:transform] + b"\x02" + cmyk[transform + 1 :]
        # stored inverted, as (255, 0, 0): read as Y, Cb and Cr, these are R 76, G 255, B 28, whose complement is shown
        np.testing.assert_allclose(decode(ycck)[0, 0].astype(int), [179, 0, 227], atol=4)

    def test_gray_jpeg(self):
        data = encoded(Image.new("L", (8, 8), 77), "JPEG")
        np.testing.assert_array_equal(decode(data), np.full((8, 8, 3), 77))

    @pytest.mark.parametrize("image_format", ["GIF", "WEBP", "TIFF", "PNG"])
    def test_first_frame_of_an_animation(self, image_format):
        frames = [Image.new("RGB", (4, 3), color) for color in ("white", "black")]
        options = {"lossless": True} if image_format == "WEBP" else {}
        data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), np.full((3, 4, 3), 255))

    def test_first_picture_of_an_mpo(self):
        frames = [Image.new("RGB", (16, 8), color) for color in ("white", "black")]
        data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decode(data), np.full((8, 16, 3), 255))

    def test_a_palette_that_is_too_short_is_black_beyond(self):
        data = png_bytes(1, 2, b"\x00\x00\x09", color_type=3, before=[png_chunk(b"PLTE", b"\xff\x00\x00")])
        assert decode(data)[0].tolist() == [[255, 0, 0], [0, 0, 0]]

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_32_bits_are_refused(self, dtype):
        with pytest.raises(BadImage, match=r"unsupported: .* no 8-bit RGB meaning"):
            decode(encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF"))

    def test_exif_photographs_look_alike(self):
        photos = [path.read_bytes() for path in sorted(shared_data("photos/exif_orientation").glob("*.jpg"))]
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

    def test_no_bytes_are_empty(self):
        for function in (decode, image_size_px):
            with pytest.raises(BadImage) as caught:
                function(b"")
            assert caught.value.reason == "empty"

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_every_hostile_file_has_its_reason(self):
        cases = hostile_bytes()
        assert len(cases) >= 45
        assert {name: reason_of(data) for name, (data, _) in cases.items()} == {
            name: reason for name, (_, reason) in cases.items()
        }

    @pytest.mark.parametrize(
        ("image_format", "options"),
        [
            *[(name, {}) for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")],
            ("JPEG", {"progressive": True}),
            ("WEBP", {"lossless": True}),
            *[("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "packbits")],
        ],
    )
    def test_what_is_cut_after_its_first_letters_is_truncated(self, image_format, options):
        data = encoded(noise(8, height=40, width=40), image_format, **options)
        reasons = {length: reason_of(data[:length]) for length in range(18, len(data))}
        told = {length: reason for length, reason in reasons.items() if reason is not None}
        if image_format == "GIF":  # where the cut falls behind a byte that looks like the end of the file
            told = {length: reason for length, reason in told.items() if data[length - 1 : length] != b";"}
        assert set(told.values()) == {"truncated"}
        assert len(reasons) - len(told) <= max(20, len(data) // 100)  # only trailers are no loss

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    def test_flipped_bytes_end_in_pixels_or_a_bad_image(self, image_format):
        rng = random.Random(image_format)
        data = encoded(noise(7, height=12, width=12), image_format)
        endings = Counter()
        for _ in range(400):
            mutable = bytearray(data)
            for _ in range(rng.randint(1, 6)):
                mutable[rng.randrange(min(len(mutable), 300))] = rng.randrange(256)
            for read in (decode, decode_mask, image_size_px):
                try:
                    read(bytes(mutable))
                    endings[read, "read"] += 1
                except BadImage:  # any other error fails the test
                    endings[read, "refused"] += 1
        assert endings[decode, "read"] + endings[decode, "refused"] == 400
        assert endings[decode, "refused"] >= 20, "the damage was real"
        assert endings[image_size_px, "read"] >= endings[decode, "read"], "a header says less than the whole"

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    @pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 2}, {"progressive": True}])
    def test_damaged_or_not_a_jpeg_is_what_pillow_makes_of_it(self, options):
        """Pixels and refusals of Pillow alone, whichever decoder was faster."""
        rng = random.Random(str(options))
        data = encoded(noise(9, height=33, width=47), "JPEG", **options)
        endings = Counter()
        for _ in range(500):
            mutable = bytearray(data)
            for _ in range(rng.randint(0, 3)):
                mutable[rng.randrange(2, len(mutable))] = rng.randrange(256)
            try:
                wanted_HWC = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(mutable))).convert("RGB"))
            except (OSError, SyntaxError, ValueError):
                assert reason_of(bytes(mutable)) is not None
                endings["refused"] += 1
            else:
                np.testing.assert_array_equal(decode(bytes(mutable)), wanted_HWC)
                endings["read"] += 1
        assert min(endings["refused"], endings["read"]) >= 20, "some damage was harmless, some was not"

    def test_a_message_has_no_address_in_memory(self):
        with pytest.raises(BadImage, match=r"^unreadable: .* its header cannot be read$"):
            decode(png_bytes(0, 3, b""))

    def test_a_jpeg_that_breaks_off_into_zeros_is_truncated(self):
        data = encoded(noise(10, height=64, width=64), "JPEG")
        assert reason_of(data[:-1_000] + bytes(1_000)) == "truncated"
        assert reason_of(data + bytes(1_000)) is None  # padded behind its end

    def test_text_is_no_image(self):
        with pytest.raises(BadImage, match=r"not_an_image: 11 bytes starting b'not an i': none of BMP, GIF, JPEG"):
            decode(b"not an imag")

    @pytest.mark.parametrize("factor", [1.01, 3, 500])
    def test_decompression_bomb_is_too_large_by_its_header_alone(self, factor):
        data = png_bytes(10_000, int(MAX_PIXELS * factor / 10_000) + 1, b"")
        for function in (decode, image_size_px):
            with pytest.raises(BadImage) as caught:
                function(data)
            assert caught.value.reason == "too_large"

    def test_the_limit_does_not_depend_on_pillows_global(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(BadImage, match="too_large"):
            image_size_px(png_bytes(10_000, 10_000, b""))

    def test_postscript_starts_no_other_program(self, monkeypatch):
        def started(*args: object, **options: object) -> None:
            raise AssertionError(args)

        monkeypatch.setattr("subprocess.Popen", started)
        assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n") == "not_an_image"

    def test_size_comes_from_the_header(self):
        data = encoded(noise(6, height=300, width=200))
        assert image_size_px(data[:100]) == (300, 200)

    def test_it_pickles_whole(self):
        error = pickle.loads(pickle.dumps(BadImage("truncated", "why")))
        assert isinstance(error, CorpusError)
        assert (error.reason, str(error)) == ("truncated", "truncated: why")
