"""Where geometry says a pixel of a view comes from, and where it does come from: every pixel of the image is named.

A point is named by its colour: columns in twelve bits and rows in twelve bits, so images of up to 4095 pixels a side.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.views import Policy
from kd_ray.views import (
    FlipParams,
    Step,
    StepsParams,
    ViewParams,
    draw,
    render,
    view_geometry,
)
from kd_ray.views.color import Pixels
from kd_ray.views.params import Crop
from kd_ray.views.steps import source_of
from tests.support.view_cases import mask_of

MAX_NAMED_PX = 4_096
NUM_POINTS = 200
ROUNDING_PX = 1e-6
# the very edge of the content belongs to the view, but no pixel of the image is there; and Pillow takes a box in
# float32, which is off by up to 1.2e-4 px at 4000
EDGE_PX = 1e-3


def names_of(size_px: tuple[int, int]) -> Pixels:
    """An image [H, W, 3] whose pixels tell their own column and row."""
    assert max(size_px) < MAX_NAMED_PX, size_px
    row_HW, column_HW = np.indices(size_px)
    parts = [column_HW >> 4, (column_HW & 15) << 4 | row_HW >> 8, row_HW & 255]
    return np.stack(parts, axis=-1).astype(np.uint8)


def named(pixels_N3: Pixels) -> NDArray[np.float64]:
    """[N, 2]: the middles of the pixels of the image that these colours name."""
    first, second, third = pixels_N3.astype(np.int64).T
    return np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], axis=-1) + 0.5


def moving_steps(params: ViewParams) -> list[Step]:
    steps = [step for each in params if isinstance(each, StepsParams) for step in each.steps]
    return [step for step in steps if source_of(step, size_px=(1, 1)) is not None]


def one_warp_of(params: ViewParams) -> ViewParams:
    """Crop, flips and the first step that moves points, which samples the nearest pixel; nothing of the colours."""
    kept = [each for each in params if isinstance(each, Crop | FlipParams)]
    steps = moving_steps(params)[:1]
    nearest = tuple(step if step.option is None else replace(step, option="nearest") for step in steps)
    return (*kept, StepsParams(steps=nearest))


def check_geometry(policy: Policy, image_size_px: tuple[int, int], size_px: tuple[int, int], sample_id: int) -> None:
    """Both checks below, of one view that the policy draws."""
    mask_HW = mask_of(sample_id) if policy.reads_masks else None
    params = draw(policy, seed=0, sample_id=sample_id, view_index=0, image_size_px=image_size_px, mask_HW=mask_HW)
    check_round_trip(params, image_size_px, size_px)
    check_against_render(params, image_size_px, size_px)


def check_round_trip(params: ViewParams, image_size_px: tuple[int, int], size_px: tuple[int, int]) -> int:
    """Points that a view shows lie in the image, and come back to where they were; gives how many were shown."""
    geometry = view_geometry(params, image_size_px, size_px=size_px)
    random = np.random.default_rng(0)
    points_N2 = random.random((NUM_POINTS, 2)) * size_px[::-1]
    points_N2 = points_N2[geometry.shows(points_N2)]
    in_image_N2 = geometry.to_image(points_N2)
    assert (in_image_N2 >= -ROUNDING_PX).all()
    assert (in_image_N2 <= np.array(image_size_px[::-1]) + ROUNDING_PX).all()
    np.testing.assert_allclose(geometry.to_view(in_image_N2), points_N2, rtol=0, atol=0.5)
    of_image_N2 = random.random((NUM_POINTS, 2)) * image_size_px[::-1]
    in_view_N2 = geometry.to_view(of_image_N2)
    shown = geometry.shows(in_view_N2)
    np.testing.assert_allclose(geometry.to_image(in_view_N2[shown]), of_image_N2[shown], rtol=0, atol=0.5)
    return len(points_N2)


def _beside_no_padding(
    params: ViewParams, in_image_N2: NDArray[np.float64], image_size_px: tuple[int, int], size_px: tuple[int, int]
) -> NDArray[np.bool_]:
    """Where the nearest pixel of the view, as it is before a warp, shows the image, too, and not what pads it."""
    unwarped = tuple(each for each in params if not isinstance(each, StepsParams))
    geometry = view_geometry(unwarped, image_size_px, size_px=size_px)
    in_view_N2 = geometry.to_view(in_image_N2)
    reach = 0.5 + EDGE_PX
    around = [in_view_N2 + np.array([x, y]) for x in (-reach, reach) for y in (-reach, reach)]
    inside = [np.clip(points_N2, 0.0, size_px[::-1]) for points_N2 in around]  # the view has no pixels beyond its edge
    return np.logical_and.reduce([geometry.shows(points_N2) for points_N2 in inside])


def check_against_render(params: ViewParams, image_size_px: tuple[int, int], size_px: tuple[int, int]) -> int:
    """Every pixel that geometry shows has the colour of the place it names; gives how many were shown.

    Within half a pixel of the image, and of the view before it is warped: the nearest pixel is taken twice.
    """
    params = one_warp_of(params)
    geometry = view_geometry(params, image_size_px, size_px=size_px)
    view_HW3 = render(names_of(image_size_px), params, size_px=size_px, interpolation="nearest")
    columns_HW, rows_HW = np.meshgrid(np.arange(size_px[1]), np.arange(size_px[0]))
    middles_N2 = np.stack([columns_HW, rows_HW], axis=-1).reshape(-1, 2) + 0.5
    around = [middles_N2 + np.array([x, y]) for x in (-EDGE_PX, EDGE_PX) for y in (-EDGE_PX, EDGE_PX)]
    shown = np.logical_and.reduce([geometry.shows(points_N2) for points_N2 in around])
    if moving_steps(params):
        shown &= _beside_no_padding(params, geometry.to_image(middles_N2), image_size_px, size_px)
    expected_N2, found_N2 = geometry.to_image(middles_N2[shown]), named(view_HW3.reshape(-1, 3)[shown])
    left, top, right, bottom = geometry.box
    pixel_of_view = np.array([(right - left) / size_px[1], (bottom - top) / size_px[0]])
    off_N2 = np.abs(expected_N2 - found_N2)
    assert (off_N2 <= 0.5 + 0.5 * pixel_of_view * bool(moving_steps(params)) + EDGE_PX).all(), off_N2.max(axis=0)
    return int(shown.sum())
