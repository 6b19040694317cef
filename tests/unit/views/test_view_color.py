"""ColorJitter against torchvision's uint8 operations, one at a time and together."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as F

from kd_ray.config.views import RendererVersion
from kd_ray.views import JitterParams
from kd_ray.views.color import FACTOR_STEPS, Pixels, brightness, gray, jitter, saturation

NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
THEIRS: dict[str, Callable[..., torch.Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
# largest and mean difference, of 255. Contrast and saturation: our gray is rounded, theirs is cut.
# Hue: 1/512 turn of rounding is 3 levels at full chroma, and they cut where we round.
# Version 2: factors in steps of 1/4096, so that products near a whole number are cut to the other side of it.
TOLERANCES: dict[RendererVersion, dict[str, tuple[int, float]]] = {
    1: {"brightness": (0, 0.0), "contrast": (1, 0.25), "saturation": (1, 0.55), "hue": (4, 0.3)},
    2: {"brightness": (1, 0.05), "contrast": (1, 0.25), "saturation": (1, 0.55), "hue": (4, 0.3)},
}
FACTORS = (0.0, 0.6, 0.97, 1.0, 1.33, 2.0)
SHIFTS = (-0.5, -0.1, 0.0, 0.013, 0.1, 0.25, 0.5)


def one(name: str, value: float) -> JitterParams:
    return JitterParams(applied=True, **{**NEUTRAL, name: value}, order=(0, 1, 2, 3))


def differences(view_HW3: Pixels, name: str, value: float, version: RendererVersion) -> NDArray[np.int64]:
    ours_HW3 = jitter(view_HW3, one(name, value), renderer_version=version)
    theirs_3HW = THEIRS[name](torch.from_numpy(view_HW3.copy()).permute(2, 0, 1), value)
    theirs_HW3: Pixels = theirs_3HW.permute(1, 2, 0).numpy()
    return np.abs(ours_HW3.astype(np.int64) - theirs_HW3.astype(np.int64))


CASES = [(name, value) for name in NEUTRAL for value in (SHIFTS if name == "hue" else FACTORS)]


@pytest.mark.parametrize("version", TOLERANCES)
@pytest.mark.parametrize(("name", "value"), CASES)
def test_each_operation_is_torchvision_s_within_tolerance(
    name: str, value: float, version: RendererVersion, image_HW3: Pixels
) -> None:
    largest, mean = TOLERANCES[version][name]
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for view_HW3 in (image_HW3, noise_HW3):
        found = differences(view_HW3, name, value, version)
        assert found.max() <= largest
        assert found.mean() <= mean


@pytest.mark.parametrize("version", TOLERANCES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_value_changes_nothing(name: str, version: RendererVersion, image_HW3: Pixels) -> None:
    np.testing.assert_array_equal(jitter(image_HW3, one(name, NEUTRAL[name]), renderer_version=version), image_HW3)


@pytest.mark.parametrize("steps", range(0, 2 * FACTOR_STEPS + 1, 241))
def test_version_2_is_exact_in_whole_numbers(steps: int) -> None:
    """At factors of 0 to 2: whatever way OpenCV takes, there is one result."""
    factor = steps / FACTOR_STEPS
    level_NN, other_NN = np.mgrid[:256, :256]
    view_NN3 = np.stack([level_NN] * 3, axis=-1).astype(np.uint8)
    expected_NN3 = np.clip(view_NN3.astype(np.int64) * steps // FACTOR_STEPS, 0, 255)
    np.testing.assert_array_equal(brightness(view_NN3, factor, renderer_version=2), expected_NN3)
    colors_NN3 = np.stack([level_NN, other_NN, 255 - level_NN], axis=-1).astype(np.uint8)
    gray_NN1 = gray(colors_NN3)[..., None].astype(np.int64)
    blended_NN3 = colors_NN3.astype(np.int64) * steps + gray_NN1 * (FACTOR_STEPS - steps)
    np.testing.assert_array_equal(
        saturation(colors_NN3, factor, renderer_version=2), np.clip(blended_NN3 // FACTOR_STEPS, 0, 255)
    )


@pytest.mark.parametrize("shift", SHIFTS)
def test_hue_leaves_grays_alone(shift: float) -> None:
    gray_HW3 = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(jitter(gray_HW3, one("hue", shift)), gray_HW3)


def test_a_third_of_a_turn_makes_red_green_and_green_blue() -> None:
    primaries_1W3 = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)
    turned_1W3 = jitter(primaries_1W3, one("hue", 1 / 3))
    expected_1W3 = np.array([[[0, 255, 0], [0, 0, 255]]])
    assert np.abs(turned_1W3.astype(int) - expected_1W3).max() <= 3  # green is 85/256 of a turn, not 1/3


def test_hue_keeps_the_brightest_channel(image_HW3: Pixels) -> None:
    turned_HW3 = jitter(image_HW3, one("hue", 0.37))
    np.testing.assert_array_equal(turned_HW3.max(axis=-1), image_HW3.max(axis=-1))


def test_the_drawn_order_is_followed(image_HW3: Pixels) -> None:
    values = {"brightness": 1.4, "contrast": 0.6, "saturation": 1.2, "hue": 0.1}
    names = tuple(values)
    step_by_step_HW3 = image_HW3
    for index in (3, 1, 0, 2):
        step_by_step_HW3 = jitter(step_by_step_HW3, one(names[index], values[names[index]]))
    at_once_HW3 = jitter(image_HW3, JitterParams(applied=True, **values, order=(3, 1, 0, 2)))
    np.testing.assert_array_equal(at_once_HW3, step_by_step_HW3)


@pytest.mark.parametrize(("name", "value"), [("brightness", 1.3), ("saturation", 0.4), ("hue", 0.21)])
def test_a_pixel_does_not_depend_on_its_place_in_the_row(name: str, value: float, image_HW3: Pixels) -> None:
    """The end of a row takes another path through OpenCV than its middle."""
    part_HW3 = np.ascontiguousarray(image_HW3[:7, :13])
    np.testing.assert_array_equal(jitter(part_HW3, one(name, value)), jitter(image_HW3, one(name, value))[:7, :13])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_beyond_what_float32_holds_exactly_are_those_of_version_1(name: str, image_HW3: Pixels) -> None:
    older_HW3, newer_HW3 = (jitter(image_HW3, one(name, 3.01), renderer_version=version) for version in TOLERANCES)
    np.testing.assert_array_equal(older_HW3, newer_HW3)
