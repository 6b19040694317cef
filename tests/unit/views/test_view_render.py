"""Rendering: any image at any size, exactly the box, and the very pixels where nothing is to be done."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kd_ray.config.views import EVALUATION_POLICY, Interpolation, Policy
from kd_ray.views import CenterCropParams, CropParams, FlipParams, ViewParams, box_px, draw, render
from kd_ray.views.color import Pixels

WHOLE = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
sides_px = st.integers(1, 70)


def noise(size_px: tuple[int, int]) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (*size_px, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    image_size_px=st.tuples(sides_px, sides_px) | st.sampled_from([(1, 1), (30, 4000), (4000, 30)]),
    size_px=st.tuples(sides_px, sides_px),
    interpolation=st.sampled_from(INTERPOLATIONS),
    sample_id=st.integers(0, 2**64 - 1),
)
def test_every_image_renders_at_every_size(
    strong_policy: Policy,
    image_size_px: tuple[int, int],
    size_px: tuple[int, int],
    interpolation: Interpolation,
    sample_id: int,
) -> None:
    image_HW3 = noise(image_size_px)[::-1, ::-1]  # not contiguous
    before_HW3 = image_HW3.copy()
    params = draw(strong_policy, seed=0, sample_id=sample_id, view_index=0, image_size_px=image_size_px)
    view_HW3 = render(image_HW3, params, size_px=size_px, interpolation=interpolation)
    assert view_HW3.shape == (*size_px, 3)
    assert view_HW3.dtype == np.uint8
    assert view_HW3.flags.c_contiguous
    assert view_HW3.flags.writeable
    np.testing.assert_array_equal(image_HW3, before_HW3)
    again_HW3 = render(image_HW3, params, size_px=size_px, interpolation=interpolation)
    np.testing.assert_array_equal(view_HW3, again_HW3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop", [WHOLE, CenterCropParams(crop_fraction=1.0)])
@pytest.mark.parametrize("size_px", [(32, 32), (31, 47), (49, 49), (1, 1)])
def test_the_whole_image_at_its_own_size_comes_back_bit_by_bit(
    crop: CropParams | CenterCropParams, size_px: tuple[int, int], interpolation: Interpolation
) -> None:
    image_HW3 = noise(size_px)
    np.testing.assert_array_equal(render(image_HW3, (crop,), size_px=size_px, interpolation=interpolation), image_HW3)


def test_a_read_only_image_will_do() -> None:
    image_HW3 = noise((8, 8))
    image_HW3.flags.writeable = False
    view_HW3 = render(image_HW3, (WHOLE, FlipParams(flipped=True)), size_px=(8, 8), interpolation="bicubic")
    np.testing.assert_array_equal(view_HW3, image_HW3[:, ::-1])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("left", [0.0, 0.3, 1.0])
def test_a_box_far_smaller_than_a_pixel_still_renders(left: float, interpolation: Interpolation) -> None:
    crop = CropParams(left=left, top=left, width=1e-12, height=1e-12)
    assert render(noise((40, 50)), (crop,), size_px=(8, 8), interpolation=interpolation).shape == (8, 8, 3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_box_of_whole_pixels_at_its_own_size_is_a_slice(interpolation: Interpolation) -> None:
    image_HW3 = noise((64, 64))
    crop = CropParams(left=0.25, top=0.125, width=0.5, height=0.25)
    view_HW3 = render(image_HW3, (crop,), size_px=(16, 32), interpolation=interpolation)
    np.testing.assert_array_equal(view_HW3, image_HW3[8:24, 16:48])


def test_shrinking_averages_instead_of_skipping() -> None:
    """A checkerboard of single pixels, shrunk eightfold, is gray."""
    board_HW = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    view_HW3 = render(np.stack([board_HW] * 3, axis=-1), (WHOLE,), size_px=(8, 8), interpolation="bicubic")
    assert np.abs(view_HW3.astype(int) - 127.5).max() <= 4


def test_every_size_sees_the_same_box(image_HW3: Pixels) -> None:
    """The position of an edge, found by the mean of the view, does not move between sizes by a tenth of a pixel."""
    step_HW3 = np.zeros((100, 100, 3), dtype=np.uint8)
    step_HW3[:, 50:] = 255
    crop = CropParams(left=0.1037, top=0.0, width=0.77, height=1.0)
    means = [
        render(step_HW3, (crop,), size_px=(side, side), interpolation="bilinear").mean() / 255 for side in (37, 64, 224)
    ]
    assert means == pytest.approx([(0.1037 + 0.77 - 0.5) / 0.77] * 3, abs=0.001)


@settings(deadline=None)
@given(
    image_size_px=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    size_px=st.tuples(st.integers(1, 1000), st.integers(1, 1000)),
    crop_fraction=st.floats(0.01, 1.0),
)
def test_a_centre_crop_is_centred_in_shape_and_as_large_as_can_be(
    image_size_px: tuple[int, int], size_px: tuple[int, int], crop_fraction: float
) -> None:
    height, width = image_size_px
    crop = CenterCropParams(crop_fraction=crop_fraction)
    left, top, right, bottom = box_px(crop, image_size_px=image_size_px, size_px=size_px)
    assert (left + right, top + bottom) == pytest.approx((width, height))
    assert (right - left) * size_px[0] == pytest.approx((bottom - top) * size_px[1])
    assert max((right - left) / width, (bottom - top) / height) == pytest.approx(crop_fraction)


def test_the_evaluation_view_is_timm_s(image_HW3: Pixels) -> None:
    """Resize of the shorter side to size / crop_pct, then the centre; here both boxes fall on whole pixels."""
    params = draw(EVALUATION_POLICY, seed=0, sample_id=0, view_index=0, image_size_px=(60, 80))
    resized = Image.fromarray(image_HW3).resize((40, 30), Image.Resampling.BICUBIC)
    view_HW3 = render(image_HW3, params, size_px=(30, 30), interpolation="bicubic")
    assert np.abs(view_HW3.astype(int) - np.asarray(resized)[:, 5:35].astype(int)).max() <= 1


def test_flipping_twice_is_nothing(image_HW3: Pixels) -> None:
    flip = FlipParams(flipped=True)
    twice: ViewParams = (WHOLE, flip, flip)
    np.testing.assert_array_equal(render(image_HW3, twice, size_px=(60, 80), interpolation="bicubic"), image_HW3)


def test_an_image_that_is_not_uint8_is_a_mistake_of_the_caller(image_HW3: Pixels) -> None:
    with pytest.raises(AssertionError, match="float32"):
        render(image_HW3.astype(np.float32), (WHOLE,), size_px=(8, 8), interpolation="bicubic")
