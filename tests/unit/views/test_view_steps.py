"""Steps: torchvision's and Pillow's meaning, in pixels that no code path, thread or place in the row changes."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from timm.data.auto_augment import solarize_add
from torchvision.transforms.v2 import functional as F

from kd_ray.views import Step, StepsParams, render
from kd_ray.views.color import Pixels
from kd_ray.views.params import CropParams, StepName
from kd_ray.views.steps import (
    NOISE_MEAN,
    NOISE_STD,
    apply_step,
    blur_weights,
    gaussian_blur,
    noise,
    noise_quantiles,
)
from tests.support.view_steps import FILL, SIZES_PX, STEPS, VERSIONS, digest_of_all, step, view

ROOT = Path(__file__).parents[3]
NEUTRAL = (
    step("gaussian_blur", 0.0),
    step("add", 0.0),
    step("multiply", 1.0),
    step("hsv_saturation", 1.0),
    step("hue", 0.0),
    step("brightness", 1.0),
    step("contrast", 1.0),
    step("saturation", 1.0),
    step("sharpness", 1.0),
    step("solarize", 256.0),
    step("solarize_add", 0.0),
    step("posterize", 8.0),
    *(step("affine", 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, *FILL, option=each) for each in ("nearest", "bilinear", "bicubic")),
    *(step("rotate", 0.0, *FILL, option=each) for each in ("nearest", "bilinear", "bicubic")),
    step("perspective", 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, *FILL, option="bilinear"),
    step("erase", 0.5, 0.5, 0.0, 0.0, 77.0, option="noise"),
)


def name_of(value: Step) -> str:
    return f"{value.name}-{value.option}-{'-'.join(f'{each:g}' for each in value.values[:2])}"


def with_torchvision(operation: Callable[..., torch.Tensor], view_HW3: Pixels, *settings: float) -> Pixels:
    result: Pixels = operation(torch.from_numpy(view_HW3.copy()).permute(2, 0, 1), *settings).permute(1, 2, 0).numpy()
    return result


def largest_difference(one_HW3: NDArray[np.uint8], other_HW3: NDArray[np.uint8]) -> int:
    return int(np.abs(one_HW3.astype(np.int64) - other_HW3.astype(np.int64)).max())


class TestEveryStep:
    @pytest.mark.parametrize("size_px", SIZES_PX)
    @pytest.mark.parametrize("each", STEPS, ids=name_of)
    def test_all_code_paths_of_opencv_agree(self, each: Step, size_px: tuple[int, int]) -> None:
        expected = [apply_step(view(size_px), each, renderer_version=version) for version in VERSIONS]
        cv2.setUseOptimized(False)
        try:
            found = [apply_step(view(size_px), each, renderer_version=version) for version in VERSIONS]
            np.testing.assert_array_equal(found, expected)
        finally:
            cv2.setUseOptimized(True)

    @pytest.mark.parametrize("size_px", SIZES_PX)
    @pytest.mark.parametrize("each", STEPS, ids=name_of)
    def test_a_view_of_any_size_stays_a_view_and_the_given_one_is_left_alone(
        self, each: Step, size_px: tuple[int, int]
    ) -> None:
        view_HW3 = view(size_px)
        view_HW3.flags.writeable = False
        stepped_HW3 = apply_step(view_HW3, each)
        assert stepped_HW3.shape == view_HW3.shape
        assert stepped_HW3.dtype == np.uint8
        assert stepped_HW3.flags.c_contiguous

    @pytest.mark.parametrize("each", NEUTRAL, ids=name_of)
    def test_a_neutral_value_changes_nothing(self, each: Step) -> None:
        for size_px in SIZES_PX:
            for version in VERSIONS:
                found_HW3 = apply_step(view(size_px), each, renderer_version=version)
                np.testing.assert_array_equal(found_HW3, view(size_px))

    def test_threads_give_the_same_pixels(self) -> None:
        expected = [apply_step(view((61, 67)), each) for each in STEPS]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                for found_HW3, expected_HW3 in zip(
                    pool.map(lambda each: apply_step(view((61, 67)), each), STEPS), expected, strict=True
                ):
                    np.testing.assert_array_equal(found_HW3, expected_HW3)

    def test_a_cpu_with_nothing_but_sse3_gives_the_same_pixels(self) -> None:
        """What OpenCV chooses by the CPU is taken away from a fresh process; the goldens cover the CPU at hand."""
        environment = os.environ | {"OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,SSE4.2,SSE4.1,SSSE3"}
        code = "from tests.support.view_steps import digest_of_all; print(digest_of_all())"
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert found.stdout.strip() == digest_of_all()

    def test_render_applies_them_in_order(self) -> None:
        whole = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
        both = (step("posterize", 2.0), step("invert"))
        rendered_HW3 = render(
            view((20, 30)), (whole, StepsParams(steps=both)), size_px=(20, 30), interpolation="bicubic"
        )
        np.testing.assert_array_equal(rendered_HW3, 255 - (view((20, 30)) & 0b11000000))


class TestLevels:
    @pytest.mark.parametrize("threshold", [0, 1, 77, 128, 255])
    def test_solarize_is_torchvision_s_and_pillow_s(self, threshold: int, image_HW3: Pixels) -> None:
        found_HW3 = apply_step(image_HW3, step("solarize", float(threshold)))
        np.testing.assert_array_equal(found_HW3, with_torchvision(F.solarize, image_HW3, threshold))
        np.testing.assert_array_equal(found_HW3, ImageOps.solarize(Image.fromarray(image_HW3), threshold))

    @pytest.mark.parametrize("bits", range(9))
    def test_posterize_is_torchvision_s(self, bits: int, image_HW3: Pixels) -> None:
        found_HW3 = apply_step(image_HW3, step("posterize", float(bits)))
        np.testing.assert_array_equal(found_HW3, with_torchvision(F.posterize, image_HW3, bits))

    @pytest.mark.parametrize("amount", [1, 55, 110])
    def test_solarize_add_is_timm_s(self, amount: int, image_HW3: Pixels) -> None:
        found_HW3 = apply_step(image_HW3, step("solarize_add", float(amount)))
        np.testing.assert_array_equal(found_HW3, solarize_add(Image.fromarray(image_HW3), amount))

    def test_invert_is_torchvision_s(self, image_HW3: Pixels) -> None:
        np.testing.assert_array_equal(apply_step(image_HW3, step("invert")), with_torchvision(F.invert, image_HW3))

    def test_flipping_is_numpy_s(self, image_HW3: Pixels) -> None:
        np.testing.assert_array_equal(apply_step(image_HW3, step("flip_vertical")), image_HW3[::-1])

    def test_gray_is_torchvision_s_but_rounded(self, image_HW3: Pixels) -> None:
        expected_HW3 = np.repeat(with_torchvision(F.rgb_to_grayscale, image_HW3), 3, axis=2)
        assert largest_difference(apply_step(image_HW3, step("gray")), expected_HW3) <= 1

    @settings(max_examples=60, deadline=None)
    @given(
        size_px=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        low=st.integers(0, 255),
        spread=st.integers(0, 255),
        seed=st.integers(0, 1000),
    )
    def test_equalize_and_autocontrast_are_pillow_s_on_any_image(
        self, size_px: tuple[int, int], low: int, spread: int, seed: int
    ) -> None:
        view_HW3 = np.minimum(view(size_px, seed).astype(int) * spread // 255 + low, 255).astype(np.uint8)
        image = Image.fromarray(view_HW3)
        np.testing.assert_array_equal(apply_step(view_HW3, step("equalize")), ImageOps.equalize(image))
        np.testing.assert_array_equal(apply_step(view_HW3, step("autocontrast")), ImageOps.autocontrast(image))

    def test_equalize_is_torchvision_s_and_autocontrast_nearly(self, image_HW3: Pixels) -> None:
        low_HW3 = image_HW3 // 3 + 40
        expected_HW3 = with_torchvision(F.equalize, low_HW3)
        np.testing.assert_array_equal(apply_step(low_HW3, step("equalize")), expected_HW3)
        found_HW3 = apply_step(low_HW3, step("autocontrast"))
        assert largest_difference(found_HW3, with_torchvision(F.autocontrast, low_HW3)) <= 1  # theirs is float32, cut

    @pytest.mark.parametrize("factor", [0.0, 0.1, 0.6, 1.4, 1.9])
    @pytest.mark.parametrize(
        ("name", "enhancer"),
        [
            ("brightness", ImageEnhance.Brightness),
            ("contrast", ImageEnhance.Contrast),
            ("saturation", ImageEnhance.Color),
            ("sharpness", ImageEnhance.Sharpness),
        ],
    )
    def test_factors_are_pillow_s_within_a_rounding(
        self, name: StepName, enhancer: Callable[..., ImageEnhance.Color], factor: float, image_HW3: Pixels
    ) -> None:
        expected_HW3 = np.asarray(enhancer(Image.fromarray(image_HW3)).enhance(factor))
        assert largest_difference(apply_step(image_HW3, step(name, factor)), expected_HW3) <= 1

    @pytest.mark.parametrize("factor", [0.0, 0.3, 1.7, 5.0])
    @pytest.mark.parametrize("size_px", SIZES_PX)
    def test_sharpness_is_torchvision_s_within_a_rounding(self, size_px: tuple[int, int], factor: float) -> None:
        expected_HW3 = with_torchvision(F.adjust_sharpness, view(size_px), factor)
        assert largest_difference(apply_step(view(size_px), step("sharpness", factor)), expected_HW3) <= 1


class TestBlur:
    @settings(deadline=None)
    @given(st.floats(0.0, 60.0))
    def test_weights_are_symmetric_and_sum_to_one(self, sigma_px: float) -> None:
        weights = blur_weights(sigma_px)
        assert sum(weights) == 256
        assert weights == weights[::-1]
        assert min(weights) > 0

    @pytest.mark.parametrize("sigma_px", [0.5, 1.0, 2.0, 5.0])
    def test_weights_are_the_gaussian_s(self, sigma_px: float) -> None:
        weights = np.array(blur_weights(sigma_px)) / 256
        at = np.arange(len(weights)) - len(weights) // 2
        exact = np.exp(-(at**2) / (2 * sigma_px**2))
        exact /= np.exp(-(np.arange(-50, 51) ** 2) / (2 * sigma_px**2)).sum()
        # half a step each, and in the middle what rounding all others leaves
        assert np.abs(np.delete(weights - exact, len(weights) // 2)).max() <= 0.5001 / 256
        assert abs(weights[len(weights) // 2] - exact.max()) <= 4 / 256

    @pytest.mark.parametrize("sigma_px", [0.4, 1.0, 1.7, 5.0])
    @pytest.mark.parametrize("size_px", SIZES_PX)
    def test_it_is_the_rounded_sum_in_whole_numbers(self, size_px: tuple[int, int], sigma_px: float) -> None:
        weights = blur_weights(sigma_px)
        reach = len(weights) // 2
        indices = [np.array([_reflected(at, side) for at in range(-reach, side + reach)]) for side in size_px]
        padded = view(size_px).astype(np.int64)[indices[0]][:, indices[1]]
        rows = sum(weight * padded[:, at : at + size_px[1]] for at, weight in enumerate(weights))
        sums = sum(weight * rows[at : at + size_px[0]] for at, weight in enumerate(weights))
        np.testing.assert_array_equal(gaussian_blur(view(size_px), sigma_px), (sums + 2**15) >> 16)

    @pytest.mark.parametrize(("sigma_px", "taps"), [(0.5, 23), (1.0, 23), (2.0, 23), (4.0, 41)])
    def test_it_is_torchvision_s_within_two_levels(self, sigma_px: float, taps: int, image_HW3: Pixels) -> None:
        """Weights of 1/256 instead of floats: on noise, where that shows most, the mean difference is below half."""
        noise_HW3 = view((60, 80))
        for view_HW3 in (image_HW3, noise_HW3):
            found_HW3 = gaussian_blur(view_HW3, sigma_px)
            expected_HW3 = with_torchvision(F.gaussian_blur, view_HW3, [taps, taps], [sigma_px, sigma_px])
            assert largest_difference(found_HW3, expected_HW3) <= 2
            assert np.abs(found_HW3.astype(int) - expected_HW3.astype(int)).mean() < 0.5

    def test_the_share_of_the_shorter_side_decides(self, image_HW3: Pixels) -> None:
        found_HW3 = apply_step(image_HW3, step("gaussian_blur", 2 / 60))
        np.testing.assert_array_equal(found_HW3, gaussian_blur(image_HW3, 2.0))


def _reflected(at: int, side: int) -> int:
    period = max(2 * (side - 1), 1)
    return 0 if side == 1 else min(at % period, period - at % period)


class TestErase:
    @pytest.mark.parametrize(("option", "color"), [("zero", (0, 0, 0)), ("mean", (124, 116, 104))])
    def test_the_box_and_nothing_else_is_replaced(self, option: str, color: tuple[int, int, int]) -> None:
        view_HW3 = view((20, 40))
        found_HW3 = apply_step(view_HW3, step("erase", 0.25, 0.5, 0.5, 0.25, 1.0, option=option))
        assert np.all(found_HW3[10:15, 10:30] == color)
        found_HW3[10:15, 10:30] = view_HW3[10:15, 10:30]
        np.testing.assert_array_equal(found_HW3, view_HW3)

    def test_noise_has_the_mean_and_the_spread_of_imagenet(self) -> None:
        levels = noise(200, 200, seed=5).reshape(-1, 3).astype(float)
        # levels below 0 and above 255 are cut, which takes up to a level of both
        np.testing.assert_allclose(levels.mean(axis=0), NOISE_MEAN, atol=2.5)
        np.testing.assert_allclose(levels.std(axis=0), NOISE_STD, atol=3.5)

    def test_noise_depends_on_the_seed_alone(self) -> None:
        np.testing.assert_array_equal(noise(7, 9, seed=2**53 - 1), noise(7, 9, seed=2**53 - 1))
        assert not np.array_equal(noise(7, 9, seed=1), noise(7, 9, seed=2))

    def test_no_level_of_noise_hangs_on_the_last_bit_of_a_logarithm(self) -> None:
        levels = np.array(noise_quantiles())[:, None] * NOISE_STD + NOISE_MEAN
        from_an_edge = np.abs((levels + 0.5) - np.rint(levels + 0.5))
        assert from_an_edge.min() > 1e-9
