"""mmsegmentation's PhotoMetricDistortion: its order and numbers, its pixels within the rounding of OpenCV's HSV."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from kd_ray.config.operations import PhotometricDistortion
from kd_ray.config.views import CenterCrop, Policy
from kd_ray.views import Step, StepsParams, draw
from kd_ray.views.color import Pixels
from kd_ray.views.params import StepName
from kd_ray.views.steps import apply_step
from tests.support.view_steps import step

BEFORE: tuple[StepName, ...] = ("add", "multiply", "hsv_saturation", "hue")
AFTER: tuple[StepName, ...] = ("add", "hsv_saturation", "hue", "multiply")


def drawn(num_views: int, **changes: object) -> list[tuple[Step, ...]]:
    distortion = PhotometricDistortion.model_validate({"kind": "photometric_distortion", **changes})
    policy = Policy(name="distorted", operations=(CenterCrop(kind="center_crop"), distortion))
    found = []
    for index in range(num_views):
        steps = draw(policy, seed=0, sample_id=3, view_index=index, image_size_px=(4, 5))[1]
        assert isinstance(steps, StepsParams)
        found.append(steps.steps)
    return found


class TestDraws:
    def test_each_of_the_four_is_applied_in_half_of_the_draws(self) -> None:
        found = drawn(2000)
        for name in BEFORE:
            share = np.mean([any(each.name == name for each in steps) for steps in found])
            assert share == pytest.approx(0.5, abs=0.045)  # 4 sigma
        assert np.mean([len(steps) == 0 for steps in found]) == pytest.approx(1 / 16, abs=0.022)

    def test_contrast_comes_before_the_colours_or_after_them(self) -> None:
        orders = [tuple(each.name for each in steps) for steps in drawn(1000, probability=1.0)]
        assert set(orders) == {BEFORE, AFTER}
        assert orders.count(AFTER) / 1000 == pytest.approx(0.5, abs=0.064)

    @pytest.mark.parametrize(
        ("name", "low", "high"),
        [("add", -32, 32), ("multiply", 0.5, 1.5), ("hsv_saturation", 0.5, 1.5), ("hue", -0.1, 0.1)],
    )
    def test_values_are_uniform_in_mmsegmentation_s_ranges(self, name: StepName, low: float, high: float) -> None:
        values = [each.values[0] for steps in drawn(1000, probability=1.0) for each in steps if each.name == name]
        shares = np.sort((np.array(values) - low) / (high - low))
        assert np.abs(shares - (np.arange(1000) + 0.5) / 1000).max() < 0.058  # Kolmogorov and Smirnov, 1 in 500

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"brightness_delta": 256}, "less than or equal to 255"),
            ({"contrast_range": [1.5, 0.5]}, "contrast_range must satisfy"),
            ({"saturation_range": [-0.1, 0.5]}, "saturation_range must satisfy"),
            ({"hue_delta": 91}, "less than or equal to 90"),
            ({"probability": 1.5}, "less than or equal to 1"),
        ],
    )
    def test_absurd_values_are_refused(self, changes: dict[str, object], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            drawn(1, **changes)


def in_hsv(view_HW3: Pixels, *, saturation: float = 1.0, hue_steps: int = 0) -> Pixels:
    """mmsegmentation's way: OpenCV's 8-bit HSV, where hues are of 180 and saturation is cut to whole levels."""
    hsv_HW3: NDArray[np.uint8] = cv2.cvtColor(view_HW3, cv2.COLOR_RGB2HSV)  # type: ignore[assignment]
    hsv_HW3[..., 1] = np.clip(hsv_HW3[..., 1].astype(np.float32) * saturation, 0, 255).astype(np.uint8)
    hsv_HW3[..., 0] = (hsv_HW3[..., 0].astype(int) + hue_steps) % 180
    return np.asarray(cv2.cvtColor(hsv_HW3, cv2.COLOR_HSV2RGB), dtype=np.uint8)


class TestPixels:
    def test_brightness_adds_and_contrast_multiplies(self, image_HW3: Pixels) -> None:
        for amount in (-31.7, 12.4):
            expected = np.clip(image_HW3.astype(np.float32) + np.float32(amount), 0, 255).astype(np.uint8)
            np.testing.assert_array_equal(apply_step(image_HW3, step("add", amount)), expected)
        for factor in (0.513, 1.47):
            expected = np.clip(image_HW3.astype(np.float32) * np.float32(factor), 0, 255).astype(np.uint8)
            first = apply_step(image_HW3, step("multiply", factor), renderer_version=1)
            np.testing.assert_array_equal(first, expected)
            second = apply_step(image_HW3, step("multiply", factor), renderer_version=2)
            assert np.abs(second.astype(int) - expected).max() <= 1  # its factor is a multiple of 1/4096

    @pytest.mark.parametrize("factor", [0.5, 0.83, 1.21, 1.5])
    def test_saturation_is_that_of_hsv(self, factor: float, image_HW3: Pixels) -> None:
        found_HW3 = apply_step(image_HW3, step("hsv_saturation", factor))
        away = np.abs(found_HW3.astype(int) - in_hsv(image_HW3, saturation=factor))
        assert away.max() <= 6  # hues are in steps of 2 degrees there
        assert away.mean() < 1.0

    @pytest.mark.parametrize("hue_steps", [-17, 5, 17])
    def test_hue_is_turned_as_by_opencv(self, hue_steps: int, image_HW3: Pixels) -> None:
        found_HW3 = apply_step(image_HW3, step("hue", hue_steps / 180))
        away = np.abs(found_HW3.astype(int) - in_hsv(image_HW3, hue_steps=hue_steps))
        assert away.max() <= 10  # hues are of 180 there, and of 256 here
        assert away.mean() < 1.5

    def test_gray_has_neither_hue_nor_saturation(self) -> None:
        gray_HW3 = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        for each in (step("hsv_saturation", 1.5), step("hue", 0.1)):
            np.testing.assert_array_equal(apply_step(gray_HW3, each), gray_HW3)

    def test_full_saturation_is_the_end(self) -> None:
        """Its smallest level becomes 0 and the largest stays, whatever the factor."""
        view_HW3 = np.array([[[200, 100, 50]]], np.uint8)
        np.testing.assert_array_equal(apply_step(view_HW3, step("hsv_saturation", 9.0)), [[[200, 67, 0]]])
        np.testing.assert_array_equal(apply_step(view_HW3, step("hsv_saturation", 0.0)), [[[200, 200, 200]]])
