"""Renderer version 2: Pillow's kernels within rounding, in arithmetic that cannot leave its type."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kd_ray.config.views import Policy
from kd_ray.views import CenterCropParams, CropParams, View, draw, prove, render
from kd_ray.views.color import Pixels
from kd_ray.views.resample import NUM_SCRATCH, BoxPx, Kernel, can_resample, resample

KERNELS: tuple[Kernel, ...] = ("bilinear", "bicubic")
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# largest and mean difference, of 255, for noise that only knows 64 and 192, the cubic's overshoots cut by neither:
# weights are rounded to 1/256 and 1/128, and values after each axis. The worst of 12,000 draws: 3 and 0.8, 6 and 1.7
# (of views whose rows are all the same, so that few values make the mean)
TOLERANCES = {"bilinear": (4, 1.2), "bicubic": (10, 2.5)}
WHOLE = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
GOLDEN = {
    "bilinear": "7dbede1e060c1c0a70fc91e47cf5b4b5",
    "bicubic": "856aeb8b5b7f632453ffc97026d7843d",
}


def black_and_white(size_px: tuple[int, int]) -> Pixels:
    """Noise of the strongest contrast, where a wrong weight costs most."""
    return two_grays(size_px, 0, 255)


def two_grays(size_px: tuple[int, int], dark: int, bright: int) -> Pixels:
    is_bright_HW3 = np.random.default_rng(0).integers(0, 2, (*size_px, 3), dtype=np.uint8)
    return np.where(is_bright_HW3, np.uint8(bright), np.uint8(dark))


@st.composite
def boxes(drawing: st.DrawFn) -> tuple[tuple[int, int], BoxPx, tuple[int, int]]:
    """(height, width) of an image, a box in it, and (height, width) of a view: at most sixteenfold smaller."""
    height, width = drawing(st.integers(1, 150)), drawing(st.integers(1, 150))
    left, right = sorted((drawing(st.floats(0, width)), drawing(st.floats(0, width))))
    top, bottom = sorted((drawing(st.floats(0, height)), drawing(st.floats(0, height))))
    right, bottom = max(right, min(left + 0.01, width)), max(bottom, min(top + 0.01, height))
    left, top = min(left, right - 0.01), min(top, bottom - 0.01)
    return (height, width), (left, top, right, bottom), (drawing(st.integers(10, 99)), drawing(st.integers(10, 99)))


@settings(max_examples=200, deadline=None)
@given(case=boxes(), kernel=st.sampled_from(KERNELS))
def test_it_is_pillow_s_resize_within_rounding(
    case: tuple[tuple[int, int], BoxPx, tuple[int, int]], kernel: Kernel
) -> None:
    image_size_px, box, size_px = case
    image_HW3 = two_grays(image_size_px, 64, 192)
    view_HW3 = resample(image_HW3, size_px=size_px, box=box, kernel=kernel)
    theirs_HW3 = np.asarray(Image.fromarray(image_HW3).resize(size_px[::-1], PILLOW[kernel], box=box))
    found = np.abs(view_HW3.astype(int) - theirs_HW3.astype(int))
    largest, mean = TOLERANCES[kernel]
    assert found.max() <= largest
    assert found.mean() <= mean


@pytest.mark.parametrize("kernel", KERNELS)
def test_on_average_it_is_neither_brighter_nor_darker(kernel: Kernel) -> None:
    image_HW3 = black_and_white((300, 400))
    box = (3.3, 1.7, 390.1, 298.2)
    for size_px in ((25, 30), (100, 100), (224, 224), (500, 500)):
        view_HW3 = resample(image_HW3, size_px=size_px, box=box, kernel=kernel)
        theirs_HW3 = np.asarray(Image.fromarray(image_HW3).resize(size_px[::-1], PILLOW[kernel], box=box))
        assert abs((view_HW3.astype(int) - theirs_HW3).mean()) < 0.05


@settings(max_examples=100, deadline=None)
@given(case=boxes(), kernel=st.sampled_from(KERNELS), value=st.sampled_from([0, 1, 127, 254, 255]))
def test_one_colour_stays_one_colour(
    case: tuple[tuple[int, int], BoxPx, tuple[int, int]], kernel: Kernel, value: int
) -> None:
    image_size_px, box, size_px = case
    image_HW3 = np.full((*image_size_px, 3), value, dtype=np.uint8)
    assert (resample(image_HW3, size_px=size_px, box=box, kernel=kernel) == value).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("crop", [WHOLE, CenterCropParams(crop_fraction=1.0)])
@pytest.mark.parametrize("size_px", [(32, 32), (31, 47), (1, 1), (1, 9)])
def test_the_whole_image_at_its_own_size_comes_back_bit_by_bit(
    crop: CropParams | CenterCropParams, size_px: tuple[int, int], kernel: Kernel
) -> None:
    image_HW3 = black_and_white(size_px)
    view_HW3 = render(image_HW3, (crop,), size_px=size_px, interpolation=kernel, renderer_version=2)
    np.testing.assert_array_equal(view_HW3, image_HW3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("left", [0.0, 0.3, 1.0])
def test_a_box_far_smaller_than_a_pixel_still_renders(left: float, kernel: Kernel) -> None:
    crop = CropParams(left=left, top=left, width=1e-12, height=1e-12)
    image_HW3 = black_and_white((40, 50))
    view_HW3 = render(image_HW3, (crop,), size_px=(8, 8), interpolation=kernel, renderer_version=2)
    assert view_HW3.shape == (8, 8, 3)


def test_every_size_sees_the_same_box() -> None:
    """The position of an edge, found by the mean of the view, does not move between sizes by a fifth of a pixel."""
    step_HW3 = np.zeros((100, 100, 3), dtype=np.uint8)
    step_HW3[:, 50:] = 255
    crop = CropParams(left=0.1037, top=0.0, width=0.77, height=1.0)
    means = [
        render(step_HW3, (crop,), size_px=(side, side), interpolation="bilinear", renderer_version=2).mean() / 255
        for side in (37, 64, 160, 224, 518)
    ]
    assert means == pytest.approx([(0.1037 + 0.77 - 0.5) / 0.77] * 5, abs=0.002)


def test_beyond_a_sixteenth_and_for_nearest_it_is_version_1(image_HW3: Pixels) -> None:
    large_HW3 = black_and_white((40, 500))
    assert not can_resample((0.0, 0.0, 500.0, 40.0), size_px=(30, 30))
    np.testing.assert_array_equal(
        render(large_HW3, (WHOLE,), size_px=(30, 30), interpolation="bilinear", renderer_version=2),
        render(large_HW3, (WHOLE,), size_px=(30, 30), interpolation="bilinear", renderer_version=1),
    )
    np.testing.assert_array_equal(
        render(image_HW3, (WHOLE,), size_px=(30, 30), interpolation="nearest", renderer_version=2),
        render(image_HW3, (WHOLE,), size_px=(30, 30), interpolation="nearest", renderer_version=1),
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_any_memory_layout_and_any_code_path_of_opencv_give_the_same_pixels(kernel: Kernel, image_HW3: Pixels) -> None:
    box = (1.3, 2.7, 76.2, 59.9)
    view_HW3 = resample(image_HW3, size_px=(37, 41), box=box, kernel=kernel)
    turned_HW3 = image_HW3[::-1, ::-1].copy()[::-1, ::-1]
    np.testing.assert_array_equal(resample(turned_HW3, size_px=(37, 41), box=box, kernel=kernel), view_HW3)
    cv2.setUseOptimized(False)
    try:
        plain_HW3 = resample(image_HW3, size_px=(37, 41), box=box, kernel=kernel)
    finally:
        cv2.setUseOptimized(True)
    np.testing.assert_array_equal(plain_HW3, view_HW3)


@pytest.mark.parametrize(
    ("image_size_px", "size_px"),
    [((700, 900), (520, 650)), ((1, 540_000), (1, 40_000))],
    ids=["in several parts", "longer than the memory kept"],
)
def test_what_is_too_large_for_the_memory_kept_is_no_exception(
    image_size_px: tuple[int, int], size_px: tuple[int, int]
) -> None:
    assert image_size_px[0] * image_size_px[1] > NUM_SCRATCH
    image_HW3 = two_grays(image_size_px, 64, 192)
    box = (0.3, 0.0, image_size_px[1] - 0.4, float(image_size_px[0]))
    view_HW3 = resample(image_HW3, size_px=size_px, box=box, kernel="bilinear")
    theirs_HW3 = np.asarray(Image.fromarray(image_HW3).resize(size_px[::-1], PILLOW["bilinear"], box=box))
    assert np.abs(view_HW3.astype(int) - theirs_HW3).max() <= TOLERANCES["bilinear"][0]


def test_threads_do_not_share_the_memory_kept(image_HW3: Pixels) -> None:
    images = [np.ascontiguousarray(np.roll(image_HW3, shift, axis=1)) for shift in range(16)]

    def view(one_HW3: Pixels) -> Pixels:
        return resample(one_HW3, size_px=(64, 64), box=(1.5, 0.5, 70.2, 59.1), kernel="bicubic")

    expected = [view(each) for each in images]
    with ThreadPoolExecutor(4) as pool:
        for found_HW3, expected_HW3 in zip(pool.map(view, images * 4), expected * 4, strict=True):
            np.testing.assert_array_equal(found_HW3, expected_HW3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_golden_pixels_of_version_2(kernel: Kernel, image_HW3: Pixels) -> None:
    """Whole numbers only: these hold under every version of NumPy, SciPy and OpenCV."""
    crop = CropParams(left=0.1037, top=0.05, width=0.77, height=0.9)
    digest = hashlib.blake2b(digest_size=16)
    for size_px in ((8, 9), (64, 64), (100, 90)):
        digest.update(render(image_HW3, (crop,), size_px=size_px, interpolation=kernel, renderer_version=2).tobytes())
    assert digest.hexdigest() == GOLDEN[kernel]


def test_the_digest_is_of_the_policy_s_renderer(strong_policy: Policy) -> None:
    image_HW3 = black_and_white((60, 80))
    older = strong_policy.model_copy(update={"renderer_version": 1})
    params = draw(strong_policy, seed=0, sample_id=1, view_index=0, image_size_px=(60, 80))
    assert draw(older, seed=0, sample_id=1, view_index=0, image_size_px=(60, 80)) == params
    digests = {
        prove(View(params=params, image_HW3=image_HW3, renderer_version=policy.renderer_version), policy=policy).digest
        for policy in (strong_policy, older)
    }
    assert len(digests) == 2
