"""Views whose pixels are kept: what the codecs do to them, how they are resized, and what is refused."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.kept import KeptCodec, KeptFormat
from kd_ray.config.views import Policy
from kd_ray.errors import CacheCorrupt
from kd_ray.views import (
    CenterCropParams,
    CropParams,
    KeptView,
    ResizePadParams,
    Step,
    StepsParams,
    View,
    ViewParams,
    decode_pixels,
    encode_pixels,
    keep_view,
    max_kept_bytes,
    prove,
    render,
    view_geometry,
)
from kd_ray.views.kept import WHOLE

SIZE_PX = (48, 64)
FORMATS = [
    KeptFormat(size_px=SIZE_PX, codec="raw", quality=None),
    KeptFormat(size_px=SIZE_PX, codec="jpeg", quality=95),
    KeptFormat(size_px=SIZE_PX, codec="webp", quality=95),
    KeptFormat(size_px=SIZE_PX, codec="webp", quality=100),
]
LOSSLESS = (FORMATS[0], FORMATS[3])


def smooth(seed: int, size_px: tuple[int, int] = SIZE_PX) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize(size_px[::-1], Image.Resampling.BICUBIC))


@pytest.fixture(params=FORMATS, ids=lambda kept: kept.title)
def kept(request: pytest.FixtureRequest) -> KeptFormat:
    chosen: KeptFormat = request.param
    return chosen


def test_what_is_decoded_is_what_pillow_decodes(kept: KeptFormat) -> None:
    data = encode_pixels(smooth(0), kept)
    found = decode_pixels(data, kept, what="it")
    if kept.codec == "raw":
        assert data == smooth(0).tobytes()
    else:
        np.testing.assert_array_equal(found, np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_codecs_without_loss_give_the_very_pixels_and_the_others_similar_ones(kept: KeptFormat) -> None:
    pixels = smooth(1)
    found = decode_pixels(encode_pixels(pixels, kept), kept, what="it")
    difference = np.abs(found.astype(int) - pixels).mean()
    assert (difference == 0) == (kept in LOSSLESS)
    assert difference < 4


def test_jpegs_keep_full_colour_resolution() -> None:
    """Red and blue in turns, pixel by pixel: with halved chroma they would all be the same purple."""
    columns = np.zeros((*SIZE_PX, 3), np.uint8)
    columns[:, ::2, 0] = columns[:, 1::2, 2] = 255
    found = decode_pixels(encode_pixels(columns, FORMATS[1]), FORMATS[1], what="it").astype(int)
    assert (found[:, ::2, 0] - found[:, 1::2, 0]).min() > 200


def test_threads_decode_the_same_pixels(kept: KeptFormat) -> None:
    data = [encode_pixels(smooth(seed), kept) for seed in range(8)]
    alone = [decode_pixels(each, kept, what="it") for each in data]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda each: decode_pixels(each, kept, what="it"), data), alone, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("codec", "quality"), [("raw", None), ("jpeg", 95), ("jpeg", 100), ("webp", 99), ("webp", 100)]
)
def test_even_noise_is_within_the_stated_bound(codec: KeptCodec, quality: int | None) -> None:
    kept = KeptFormat(size_px=(96, 96), codec=codec, quality=quality)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for pixels in (noise, np.where(noise > 127, 255, 0).astype(np.uint8)):
        assert len(encode_pixels(pixels, kept)) <= max_kept_bytes(kept)


def test_a_kept_view_at_its_own_size_is_the_very_pixels(kept: KeptFormat) -> None:
    view = KeptView(params=(), pixels_HW3=smooth(2))
    assert view.render(SIZE_PX, "bicubic") is view.pixels_HW3


def test_a_kept_view_at_another_size_is_resized_whole_by_the_models_kernel() -> None:
    pixels = smooth(3)
    found = KeptView(params=(), pixels_HW3=pixels, renderer_version=1).render((30, 30), "bilinear")
    wanted = Image.fromarray(pixels).resize((30, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.array(wanted))


def test_a_view_is_kept_at_its_size_after_rendering(kept: KeptFormat) -> None:
    image, crop = smooth(4, (90, 120)), (CropParams(left=0.25, top=0.0, width=0.5, height=0.75),)
    data, view = keep_view(View(params=crop, image_HW3=image), kept)
    rendered = render(image, crop, size_px=SIZE_PX, interpolation="bicubic")
    np.testing.assert_array_equal(view.pixels_HW3, decode_pixels(encode_pixels(rendered, kept), kept, what="it"))
    np.testing.assert_array_equal(view.pixels_HW3, decode_pixels(data, kept, what="it"))
    assert view.params == crop


def test_the_proof_is_of_the_decoded_pixels_at_their_own_size(kept: KeptFormat, strong_policy: Policy) -> None:
    _, view = keep_view(View(params=(CropParams(left=0, top=0, width=1, height=1),), image_HW3=smooth(5)), kept)
    proof = prove(view, policy=strong_policy)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(SIZE_PX[0].to_bytes(4, "little") + SIZE_PX[1].to_bytes(4, "little") + view.pixels_HW3.tobytes())
    small = Image.fromarray(view.pixels_HW3).resize((8, 8), Image.Resampling.BOX)
    assert (proof.digest, proof.thumbnail) == (digest.digest(), small.tobytes())


def test_bytes_of_another_size_or_of_no_image_are_refused(kept: KeptFormat) -> None:
    other = KeptFormat(size_px=(16, 16), codec=kept.codec, quality=kept.quality)
    for data in (encode_pixels(smooth(6, (16, 16)), other), b"\xff\xd8 no image"):
        with pytest.raises(CacheCorrupt, match=r"^sample 7: got .*, expected 48×64 px"):
            decode_pixels(data, kept, what="sample 7")


@pytest.mark.parametrize(
    "params",
    [
        (CenterCropParams(crop_fraction=1.0),),
        (ResizePadParams(fill=(0, 0, 0)),),
        (WHOLE, StepsParams(steps=(Step(name="rotate", values=(30.0, 0.0, 0.0, 0.0), option="bilinear"),))),
    ],
)
def test_geometry_of_kept_pixels_in_another_shape_is_that_of_the_kept_one(params: ViewParams) -> None:
    # levels say where in the image a pixel is from: red the column, green the row
    columns, rows = np.meshgrid(np.arange(200), np.arange(100))
    image_HW3 = np.stack([columns, rows, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    kept = KeptFormat(size_px=(64, 128), codec="raw", quality=None)
    _, view = keep_view(View(params=params, image_HW3=image_HW3), kept)
    seen_HW3 = view.render((64, 64), "bilinear")
    geometry = view_geometry(params, (100, 200), size_px=(64, 64), kept_px=kept.size_px)
    for x, y in ((24.5, 28.5), (40.5, 32.5), (32.5, 36.5)):
        in_image = geometry.to_image(np.array([x, y]))
        red, green, _ = seen_HW3[int(y), int(x)].tolist()
        assert np.abs(in_image - 0.5 - (red, green)).max() < 2.0
        assert geometry.shows(np.array([x, y]))
