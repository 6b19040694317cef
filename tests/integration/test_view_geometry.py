"""Geometry: where it says a point of the image lies is where `render` puts it."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd_ray.config.views import Interpolation
from kd_ray.views import (
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    Step,
    StepsParams,
    ViewParams,
    chained_geometry,
    render,
    view_geometry,
)
from kd_ray.views.color import Pixels
from kd_ray.views.geometry import FLIP
from kd_ray.views.params import Crop, StepName
from kd_ray.views.warp import Projection

WHOLE = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
FLIPPED = FlipParams(flipped=True)
CROP = CropParams(left=0.1037, top=0.25, width=0.77, height=0.5)
JITTER = JitterParams(applied=True, brightness=1.2, contrast=1.0, saturation=1.0, hue=0.0, order=(0, 1, 2, 3))
TURNED: Projection = ((0.0, -1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # by a quarter
TILTED: Projection = ((1.2, 0.1, -0.05), (0.05, 1.1, 0.0), (0.4, 0.3, 0.7))
STEEP: Projection = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-2.0, 0.0, 1.0))  # the horizon is the middle of the image

sides_px = st.integers(1, 70)
sizes_px = st.tuples(sides_px, sides_px)
image_sizes_px = sizes_px | st.sampled_from([(1, 1), (30, 4000), (4000, 30), (1, 300), (375, 500)])
shares = st.floats(0.05, 1.0)


@st.composite
def crops(draw: st.DrawFn) -> Crop:
    if draw(st.booleans()):
        return CenterCropParams(crop_fraction=draw(shares))
    width, height = draw(shares), draw(shares)
    left, top = draw(st.floats(0.0, 1.0)) * (1 - width), draw(st.floats(0.0, 1.0)) * (1 - height)
    return CropParams(left=left, top=top, width=width, height=height)


@st.composite
def views(draw: st.DrawFn) -> ViewParams:
    return (draw(crops()), *(FlipParams(flipped=each) for each in draw(st.lists(st.booleans(), max_size=3))))


def corners_of(size_px: tuple[int, int]) -> NDArray[np.float64]:
    height, width = size_px
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)


def ramps_through(point: NDArray[np.float64], image_size_px: tuple[int, int], slope: tuple[float, float]) -> Pixels:
    """Red is 128 at the x of `point` and grows by `slope[0]` a pixel, green the same for y; both end at 0 and 255."""
    y_H1, x_1W = (np.arange(side) + 0.5 for side in image_size_px)
    image_HW3 = np.zeros((*image_size_px, 3))
    image_HW3[..., 0] = 128 + slope[0] * (x_1W[None, :] - point[0])
    image_HW3[..., 1] = 128 + slope[1] * (y_H1[:, None] - point[1])
    return np.rint(np.clip(image_HW3, 0, 255)).astype(np.uint8)


class TestAgainstRender:
    @settings(max_examples=300, deadline=None)
    @given(
        image_size_px=image_sizes_px,
        params=views(),
        size_px=sizes_px,
        at=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
        interpolation=st.sampled_from(["bilinear", "bicubic"]),
    )
    @example((60, 80), (CROP, FLIPPED), (37, 37), (0.9, 0.1), "bilinear")
    def test_a_pixel_of_the_view_shows_the_point_of_the_image_that_geometry_names(
        self,
        image_size_px: tuple[int, int],
        params: ViewParams,
        size_px: tuple[int, int],
        at: tuple[float, float],
        interpolation: Interpolation,
    ) -> None:
        """Ramps through that point have their middle in that pixel.

        In pixels of the image or the view, whichever are larger: within a half at the edges of the image, where a
        filter has one side only, and within 1/8 elsewhere, which is rounding to 256 levels three times.
        """
        geometry = view_geometry(params, image_size_px, size_px=size_px)
        column, row = int(at[0] * size_px[1]), int(at[1] * size_px[0])
        point = geometry.to_image(np.array([column + 0.5, row + 0.5]))
        left, top, right, bottom = geometry.box
        coarser_px = (max(1.0, (right - left) / size_px[1]), max(1.0, (bottom - top) / size_px[0]))
        # linear for five pixels on each side: a bicubic filter sees two
        slope = (24 / coarser_px[0], 24 / coarser_px[1])
        view_hw3 = render(
            ramps_through(point, image_size_px, slope), params, size_px=size_px, interpolation=interpolation
        )
        for axis in (0, 1):
            away = abs(float(view_hw3[row, column, axis]) - 128) / 24
            near_the_edge = not 2.5 * coarser_px[axis] < point[axis] < image_size_px[1 - axis] - 2.5 * coarser_px[axis]
            assert away <= (0.5 + 1 / 8 if near_the_edge else 1 / 8)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("flip_vertical", ()),
            ("rotate", (33.0, 0.0, 0.0, 0.0)),
            ("shear_x", (0.3, 0.0, 0.0, 0.0)),
            ("shear_y", (-0.25, 0.0, 0.0, 0.0)),
            ("translate_x", (0.2, 0.0, 0.0, 0.0)),
            ("translate_y", (-0.3, 0.0, 0.0, 0.0)),
            ("affine", (20.0, 0.1, -0.05, 1.25, 10.0, -5.0, 0.0, 0.0, 0.0)),
            ("perspective", (0.1, 0.05, 0.95, 0.15, 0.85, 0.9, 0.05, 1.0, 0.0, 0.0, 0.0)),
        ],
    )
    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
    def test_steps_move_pixels_to_where_geometry_says(
        self, name: StepName, values: tuple[float, ...], interpolation: Interpolation
    ) -> None:
        """As above, two steps one after the other in views that are not square; what is filled in is not shown."""
        step = Step(name=name, values=values, option=None if name == "flip_vertical" else interpolation)
        turn = Step(name="rotate", values=(-10.0, 0.0, 0.0, 0.0), option=interpolation)
        params = (CROP, StepsParams(steps=(step,)), FLIPPED, StepsParams(steps=(turn,)))
        geometry = view_geometry(params, (120, 160), size_px=(90, 70))
        num_shown = 0
        for row in range(2, 90, 11):
            for column in range(2, 70, 11):
                middle = np.array([column + 0.5, row + 0.5])
                # two pixels around it, too: a filter at the edge of the content mixes in what is filled
                around = middle + np.array([(0, 0), (-2, -2), (2, -2), (2, 2), (-2, 2)])
                if not geometry.shows(around).all():
                    continue
                num_shown += 1
                point = geometry.to_image(middle)
                view_hw3 = render(
                    ramps_through(point, (120, 160), (12, 12)), params, size_px=(90, 70), interpolation="bilinear"
                )
                away = np.abs(view_hw3[row, column, :2].astype(float) - 128) / 12 / 1.8  # in pixels of the view
                assert away.max() <= (1.2 if interpolation == "nearest" else 0.2)  # twice a half, or rounding
        assert num_shown > 10

    def test_what_a_step_fills_in_is_not_shown(self) -> None:
        params = (WHOLE, StepsParams(steps=(Step(name="translate_x", values=(0.5, 0.0, 0.0, 0.0), option="nearest"),)))
        geometry = view_geometry(params, (60, 80), size_px=(40, 40))
        shown = geometry.shows(np.array([(5.0, 20.0), (19.0, 20.0), (21.0, 20.0), (35.0, 20.0)]))
        assert shown.tolist() == [False, False, True, True]

    def test_a_flip_that_geometry_left_out_would_be_seen(self) -> None:
        """The ramps above do tell one side from the other."""
        point = view_geometry((WHOLE,), (60, 80), size_px=(60, 80)).to_image(np.array([10.5, 30.5]))
        view_hw3 = render(
            ramps_through(point, (60, 80), (24, 24)), (WHOLE, FLIPPED), size_px=(60, 80), interpolation="bilinear"
        )
        assert abs(int(view_hw3[30, 10, 0]) - 128) > 100


class TestPoints:
    @settings(max_examples=200, deadline=None)
    @given(image_size_px=image_sizes_px, params=views(), size_px=sizes_px, seed=st.integers(0, 99))
    def test_there_and_back_is_where_it_was(
        self, image_size_px: tuple[int, int], params: ViewParams, size_px: tuple[int, int], seed: int
    ) -> None:
        geometry = view_geometry(params, image_size_px, size_px=size_px)
        points_N2 = np.random.default_rng(seed).random((20, 2))
        of_view, of_image = points_N2 * size_px[::-1], points_N2 * image_size_px[::-1]
        np.testing.assert_allclose(geometry.to_view(geometry.to_image(of_view)), of_view, rtol=0, atol=1e-9)
        np.testing.assert_allclose(geometry.to_image(geometry.to_view(of_image)), of_image, rtol=0, atol=1e-9)

    @settings(deadline=None)
    @given(image_size_px=image_sizes_px, crop=crops(), size_px=sizes_px)
    def test_the_corners_of_the_crop_are_those_of_the_view(
        self, image_size_px: tuple[int, int], crop: Crop, size_px: tuple[int, int]
    ) -> None:
        geometry = view_geometry((crop,), image_size_px, size_px=size_px)
        left, top, right, bottom = geometry.box
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        np.testing.assert_allclose(geometry.to_view(corners), corners_of(size_px), rtol=0, atol=1e-9)

    def test_a_crop_of_half_the_image_by_hand(self) -> None:
        crop = CropParams(left=0.25, top=0.5, width=0.5, height=0.25)
        geometry = view_geometry((crop,), (100, 200), size_px=(50, 50))
        assert geometry.box == (50.0, 50.0, 150.0, 75.0)
        np.testing.assert_allclose(geometry.to_view(np.array([[100.0, 60.0], [50.0, 75.0]])), [[25, 20], [0, 50]])

    def test_a_flip_exchanges_left_and_right_of_the_view(self) -> None:
        plain, flipped = (view_geometry(params, (60, 80), size_px=(32, 48)) for params in ((CROP,), (CROP, FLIPPED)))
        points_N2 = np.random.default_rng(0).random((20, 2)) * (80, 60)
        x, y = np.moveaxis(plain.to_view(points_N2), -1, 0)
        np.testing.assert_allclose(flipped.to_view(points_N2), np.stack([48 - x, y], axis=-1), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("more", [(FLIPPED, FLIPPED), (JITTER,), (FlipParams(flipped=False),)])
    def test_two_flips_or_a_jitter_move_nothing(self, more: ViewParams) -> None:
        points_N2 = np.random.default_rng(0).random((20, 2)) * (80, 60)
        plain, other = (view_geometry(params, (60, 80), size_px=(32, 48)) for params in ((CROP,), (CROP, *more)))
        np.testing.assert_allclose(other.to_view(points_N2), plain.to_view(points_N2), rtol=0, atol=1e-12)

    def test_a_mixed_view_lies_where_it_lies_unmixed(self) -> None:
        mix = MixParams(partner=1, partner_params=(WHOLE, FLIPPED), weight=0.5, box=None)
        mixed, alone = (view_geometry(params, (60, 80), size_px=(32, 32)) for params in ((CROP, mix), (CROP,)))
        assert mixed == alone

    @settings(deadline=None)
    @given(image_size_px=image_sizes_px, params=views(), side=sides_px, other=sides_px)
    def test_a_view_at_two_sizes_shows_a_point_at_the_same_share_of_its_sides(
        self, image_size_px: tuple[int, int], params: ViewParams, side: int, other: int
    ) -> None:
        points_N2 = np.random.default_rng(0).random((20, 2)) * image_size_px[::-1]
        shares = [view_geometry(params, image_size_px, size_px=(n, n)).to_view(points_N2) / n for n in (side, other)]
        np.testing.assert_allclose(shares[0], shares[1], rtol=0, atol=1e-9)

    def test_points_may_be_a_grid_of_any_shape(self) -> None:
        geometry = view_geometry((CROP, FLIPPED), (60, 80), size_px=(32, 32))
        points = np.random.default_rng(0).random((2, 3, 4, 2)) * 60
        np.testing.assert_array_equal(geometry.to_view(points)[1, 2], geometry.to_view(points[1, 2]))
        assert geometry.shows(points).shape == (2, 3, 4)

    def test_a_crop_that_leaves_nothing_is_a_mistake_of_the_caller(self) -> None:
        beyond = CropParams(left=1.0, top=0.0, width=0.5, height=1.0)
        with pytest.raises(AssertionError, match="nothing is left of the width"):
            view_geometry((beyond,), (60, 80), size_px=(32, 32))


class TestAnyChain:
    """What affine and perspective operations need: matrices between unit squares."""

    @pytest.mark.parametrize("steps", [[TURNED], [TILTED], [FLIP, TILTED, TURNED], [TILTED, FLIP, TILTED]])
    def test_there_and_back_is_where_it_was(self, steps: list[Projection]) -> None:
        geometry = chained_geometry(steps, image_size_px=(60, 80), size_px=(32, 48), box=(0, 0, 80, 60))
        points_N2 = np.random.default_rng(0).random((50, 2)) * (80, 60)
        np.testing.assert_allclose(geometry.to_image(geometry.to_view(points_N2)), points_N2, rtol=0, atol=1e-9)

    def test_a_quarter_turn_by_hand(self) -> None:
        geometry = chained_geometry([TURNED], image_size_px=(60, 80), size_px=(80, 60), box=(0, 0, 80, 60))
        np.testing.assert_allclose(geometry.to_view(corners_of((60, 80))), [[60, 0], [60, 80], [0, 80], [0, 0]])

    def test_steps_follow_one_another(self) -> None:
        sizes = {"image_size_px": (60, 80), "size_px": (60, 80), "box": (0, 0, 80, 60)}
        first, second, both = (chained_geometry(steps, **sizes) for steps in ([TILTED], [TURNED], [TILTED, TURNED]))
        points_N2 = np.random.default_rng(0).random((50, 2)) * (80, 60)
        np.testing.assert_allclose(both.to_view(points_N2), second.to_view(first.to_view(points_N2)), atol=1e-9)

    def test_behind_the_horizon_there_is_no_point(self) -> None:
        geometry = chained_geometry([STEEP], image_size_px=(10, 10), size_px=(10, 10), box=(0, 0, 10, 10))
        found = geometry.to_view(np.array([[4.0, 5.0], [5.0, 5.0], [6.0, 5.0]]))
        assert np.isnan(found).tolist() == [[False, False], [True, True], [True, True]]
        assert geometry.shows(found).tolist() == [False, False, False]  # the first lies at x = 20


class TestShows:
    def test_a_view_without_padding_shows_all_of_itself_and_nothing_else(self) -> None:
        geometry = view_geometry((CROP, FLIPPED), (60, 80), size_px=(32, 48))
        inside = [(0.0, 0.0), (48.0, 32.0), (24.0, 16.0)]
        outside = [(-0.01, 5.0), (48.01, 5.0), (5.0, -0.01), (5.0, 32.01)]
        assert geometry.shows(np.array(inside)).all()
        assert not geometry.shows(np.array(outside)).any()

    @settings(max_examples=200, deadline=None)
    @given(image_size_px=image_sizes_px, params=views(), size_px=sizes_px)
    def test_the_corners_of_a_drawn_view_are_shown(
        self, image_size_px: tuple[int, int], params: ViewParams, size_px: tuple[int, int]
    ) -> None:
        assert view_geometry(params, image_size_px, size_px=size_px).shows(corners_of(size_px)).all()

    def test_around_an_image_that_was_made_smaller_there_is_padding(self) -> None:
        half: Projection = ((0.5, 0.0, 0.25), (0.0, 0.5, 0.25), (0.0, 0.0, 1.0))
        geometry = chained_geometry([half], image_size_px=(60, 80), size_px=(100, 100), box=(0, 0, 80, 60))
        points_N2 = np.array([(26.0, 26.0), (74.0, 50.0), (24.0, 50.0), (50.0, 76.0)])
        assert geometry.shows(points_N2).tolist() == [True, True, False, False]

    def test_what_a_crop_cut_off_does_not_come_back_by_a_rotation(self) -> None:
        """The image has content there, but a renderer that crops first has no longer."""
        crop: Projection = ((2.0, 0.0, -0.5), (0.0, 2.0, -0.5), (0.0, 0.0, 1.0))
        c = math.sqrt(0.5)
        rotation: Projection = (
            (c, -c, 0.5),
            (c, c, 0.5 - 2 * c * 0.5),
            (0.0, 0.0, 1.0),
        )  # by 45 degrees
        sizes = {"image_size_px": (100, 100), "size_px": (100, 100), "box": (25, 25, 75, 75)}
        corner, middle = np.array([1.0, 1.0]), np.array([50.0, 1.0])
        turned = chained_geometry([crop, FLIP, rotation], **sizes)
        assert (turned.to_image(corner) > 0).all()
        assert not turned.shows(corner)
        assert turned.shows(middle)
        assert chained_geometry([crop, FLIP], **sizes).shows(corner)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_the_same_numbers_whatever_the_shape_of_the_question(factor: int) -> None:
    """A point is computed by itself: batches, strides and order decide no bit."""
    geometry = chained_geometry([TILTED, FLIP], image_size_px=(61, 83), size_px=(37, 41), box=(0, 0, 83, 61))
    points_N2 = np.random.default_rng(0).random((96, 2)) * 60
    whole = geometry.to_view(points_N2)
    np.testing.assert_array_equal(geometry.to_view(points_N2[::factor]), whole[::factor])
    np.testing.assert_array_equal([geometry.to_view(point) for point in points_N2], whole)
