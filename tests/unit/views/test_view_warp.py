"""Warps: torchvision's and Pillow's geometry, and fixed-point sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from kd_ray.views.color import Pixels
from kd_ray.views.params import Step, StepName
from kd_ray.views.steps import apply_step
from kd_ray.views.warp import affine, warp_affine

BLACK = (0.0, 0.0, 0.0)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@pytest.fixture(scope="module")
def smooth_HW3() -> Pixels:  # noqa: N802
    """91x120, without edges: neighbours differ by at most 6 levels."""
    y_H1, x_1W = np.mgrid[:91, :120]
    waves = [127 + 100 * np.sin(x_1W / 20 + index) * np.cos(y_H1 / 17 - index) for index in range(3)]
    return np.ascontiguousarray(np.stack(waves, axis=-1).astype(np.uint8))


def warped(view_HW3: Pixels, name: StepName, *values: float, option: str = "bilinear") -> Pixels:
    return apply_step(view_HW3, Step(name=name, values=(*values, *BLACK), option=option))


def as_torch(view_HW3: Pixels) -> torch.Tensor:
    return torch.from_numpy(view_HW3.copy()).permute(2, 0, 1)


def check_close(found_HW3: Pixels, expected: torch.Tensor | Image.Image, *, share_elsewhere: float = 0.04) -> None:
    """Where neither sees the fill, at most 2 levels apart; that is nearly everywhere the case where one does not."""
    is_tensor = isinstance(expected, torch.Tensor)
    expected_HW3 = expected.permute(1, 2, 0).numpy() if is_tensor else np.asarray(expected)
    differences_HW: NDArray[np.int64] = np.abs(found_HW3.astype(np.int64) - expected_HW3).max(axis=-1)
    # the border of the content lies between the pixels, and each library blends it with the fill in its own way
    assert (differences_HW > 2).mean() < share_elsewhere
    assert np.median(differences_HW) <= 1
    assert (differences_HW > 2)[30:60, 40:80].sum() == 0


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("degrees", "shift", "scale", "shear"),
    [
        (0.0, (0.0, 0.0), 1.0, (0.0, 0.0)),
        (25.0, (0.0, 0.0), 1.0, (0.0, 0.0)),
        (0.0, (0.1, -0.2), 1.0, (0.0, 0.0)),
        (0.0, (0.0, 0.0), 1.4, (0.0, 0.0)),
        (0.0, (0.0, 0.0), 1.0, (20.0, 0.0)),
        (0.0, (0.0, 0.0), 1.0, (0.0, -15.0)),
        (-70.0, (0.05, 0.1), 0.8, (12.0, 8.0)),
    ],
)
def test_affine_is_torchvision_s(
    mode: str, degrees: float, shift: tuple[float, float], scale: float, shear: tuple[float, float], smooth_HW3: Pixels
) -> None:
    found_HW3 = warped(smooth_HW3, "affine", degrees, *shift, scale, *shear, option=mode)
    expected = F.affine(
        as_torch(smooth_HW3),
        angle=degrees,
        translate=[shift[0] * 120, shift[1] * 91],
        scale=scale,
        shear=list(shear),
        interpolation=InterpolationMode(mode),
    )
    check_close(found_HW3, expected)


@pytest.mark.parametrize("value", [-0.3, 0.17])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y"])
def test_shears_and_translations_are_timm_s(name: StepName, value: float, smooth_HW3: Pixels) -> None:
    theirs = getattr(auto_augment, name if name.startswith("shear") else f"{name}_rel")
    # timm's translations move the frame where ours move the content; the sign is drawn
    sign = 1.0 if name.startswith("shear") else -1.0
    expected = theirs(
        Image.fromarray(smooth_HW3), sign * value, resample=Image.Resampling.BILINEAR, fillcolor=(0, 0, 0)
    )
    check_close(warped(smooth_HW3, name, value), expected)


@pytest.mark.parametrize("degrees", [-30.0, 11.0, 135.0])
def test_rotation_is_pillow_s(degrees: float, smooth_HW3: Pixels) -> None:
    expected = Image.fromarray(smooth_HW3).rotate(degrees, Image.Resampling.BILINEAR)
    check_close(warped(smooth_HW3, "rotate", degrees), expected)


def test_perspective_is_torchvision_s(smooth_HW3: Pixels) -> None:
    corners = (0.1, 0.05, 0.85, 0.2, 0.95, 0.9, 0.05, 0.8)
    points = [[corners[2 * at] * 120, corners[2 * at + 1] * 91] for at in range(4)]
    expected = F.perspective(as_torch(smooth_HW3), [[0, 0], [120, 0], [120, 91], [0, 91]], points)
    check_close(warped(smooth_HW3, "perspective", *corners), expected)


shares = st.floats(0.0, 0.5)


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[shares] * 8), st.sampled_from(INTERPOLATIONS))
def test_any_quadrilateral_can_be_drawn_into(inward: tuple[float, ...], option: str) -> None:
    """Also where it is no longer convex; warnings of a division would fail the test."""
    at_far_end = (False, False, True, False, True, True, False, True)
    corners = [1.0 - share if far else share for share, far in zip(inward, at_far_end, strict=True)]
    found_HW3 = warped(np.full((9, 14, 3), 200, dtype=np.uint8), "perspective", *corners, option=option)
    assert found_HW3.shape == (9, 14, 3)


def test_a_corner_of_the_view_lands_where_its_corner_is_drawn() -> None:
    """A quadrilateral with its sides along the axes is a resize: nearest, each quarter comes from its own pixel."""
    quarters_HW3 = np.zeros((40, 40, 3), dtype=np.uint8)
    quarters_HW3[:20, :20], quarters_HW3[:20, 20:], quarters_HW3[20:, 20:] = (9, 0, 0), (0, 9, 0), (0, 0, 9)
    half = (0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75)
    found_HW3 = warped(quarters_HW3, "perspective", *half, option="nearest")
    np.testing.assert_array_equal(found_HW3[10:30, 10:30], quarters_HW3[::2, ::2])
    found_HW3[10:30, 10:30] = 0
    assert found_HW3.max() == 0


@pytest.mark.parametrize("option", INTERPOLATIONS)
@pytest.mark.parametrize(("degrees", "turns"), [(90.0, 1), (180.0, 2), (-90.0, 3), (360.0, 0)])
def test_quarter_turns_of_a_square_are_exact(option: str, degrees: float, turns: int) -> None:
    square_HW3 = np.random.default_rng(0).integers(0, 256, (31, 31, 3), dtype=np.uint8)
    found_HW3 = warped(square_HW3, "rotate", degrees, option=option)
    np.testing.assert_array_equal(found_HW3, np.rot90(square_HW3, turns))


@pytest.mark.parametrize("option", INTERPOLATIONS)
def test_a_translation_by_whole_pixels_is_a_slice_and_the_fill(option: str, smooth_HW3: Pixels) -> None:
    found_HW3 = warped(smooth_HW3, "translate_x", 30 / 120, option=option)
    np.testing.assert_array_equal(found_HW3[:, 30:], smooth_HW3[:, :-30])
    assert found_HW3[:, :28].max() == 0  # bicubic reaches two pixels over the border


def test_what_lies_outside_is_the_fill() -> None:
    gone = Step(name="translate_y", values=(1.0, 10.0, 20.0, 30.0), option="bilinear")
    found_HW3 = apply_step(np.full((6, 5, 3), 200, dtype=np.uint8), gone)
    assert np.all(found_HW3 == (10, 20, 30))


@settings(max_examples=60, deadline=None)
@given(
    degrees=st.floats(-360, 360),
    scale=st.floats(0.05, 20.0),
    shear=st.tuples(st.floats(-60, 60), st.floats(-60, 60)),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_the_matrix_is_the_inverse_of_torchvision_s_map(
    degrees: float, scale: float, shear: tuple[float, float], shift: tuple[float, float]
) -> None:
    from torchvision.transforms.functional import _get_inverse_affine_matrix

    theirs = _get_inverse_affine_matrix(
        [60.0, 45.5], degrees, [shift[0] * 120, shift[1] * 91], scale, list(shear), inverted=True
    )
    ours = affine(120, 91, degrees=degrees, shift=shift, scale=scale, shear=shear)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-4)


def test_bilinear_sampling_is_in_whole_numbers_of_1_32_pixel() -> None:
    """The oracle in integers, at places that are no multiples of 1/32: they are rounded before anything is sampled."""
    view_HW3 = np.random.default_rng(1).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    found_HW3 = warp_affine(view_HW3, (1.0, 0.0, 0.3, 0.0, 1.0, 0.71), interpolation="bilinear", fill=BLACK)
    part_x, part_y = round(0.3 * 32), round(0.71 * 32)
    wide = view_HW3.astype(np.int64)
    rows = wide[:, :-1] * (32 - part_x) + wide[:, 1:] * part_x
    sums = rows[:-1] * (32 - part_y) + rows[1:] * part_y
    np.testing.assert_array_equal(found_HW3[:-1, :-1], (sums + 512) >> 10)


@settings(max_examples=200, deadline=None)
@given(
    size_px=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    halves=st.tuples(st.integers(-90, 90), st.integers(-90, 90)),
    off=st.sampled_from([0.0, 1e-15, -1e-15, 1e-12, -1e-12, 1e-5, 0.2, 1e6]),
)
def test_a_shift_is_what_sampling_each_pixel_gives(
    size_px: tuple[int, int], halves: tuple[int, int], off: float
) -> None:
    height, width = size_px
    view_HW3 = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    c, f = (half / 2 + off for half in halves)
    x_W = np.floor(np.arange(width) + 0.5 + c).astype(np.int64)
    y_H = np.floor(np.arange(height) + 0.5 + f).astype(np.int64)
    is_inside_HW = ((y_H >= 0) & (y_H < height))[:, None] & ((x_W >= 0) & (x_W < width))
    seen_HW3 = view_HW3[np.clip(y_H, 0, height - 1)][:, np.clip(x_W, 0, width - 1)]
    expected_HW3 = np.where(is_inside_HW[..., None], seen_HW3, np.array([124, 116, 104], dtype=np.uint8))
    found_HW3 = warp_affine(view_HW3, (1.0, 0.0, c, 0.0, 1.0, f), interpolation="nearest", fill=(124.0, 116.0, 104.0))
    np.testing.assert_array_equal(found_HW3, expected_HW3)
