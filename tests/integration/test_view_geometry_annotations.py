"""Masks, boxes and polygons: cut and moved as the pixels are."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kd_ray
from kd_ray.views import (
    CenterCropParams,
    CropParams,
    FlipParams,
    ViewGeometry,
    ViewParams,
    boxes_in_view,
    chained_geometry,
    mask_in_view,
    polygons_in_view,
    render,
    view_geometry,
)
from kd_ray.views.geometry import FLIP, sample_mask
from kd_ray.views.warp import Projection

WHOLE = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
FLIPPED = FlipParams(flipped=True)
HALF = CropParams(left=0.25, top=0.25, width=0.5, height=0.5)
TILTED: Projection = ((1.2, 0.1, -0.05), (0.05, 1.1, 0.0), (0.4, 0.3, 0.7))
TURNED: Projection = ((0.8, -0.6, 0.4), (0.6, 0.8, -0.2), (0.0, 0.0, 1.0))  # around the centre, by 37 degrees
HALVED: Projection = ((2.0, 0.0, -0.5), (0.0, 2.0, -0.5), (0.0, 0.0, 1.0))  # the centre crop of half the sides
SHRUNK: Projection = ((0.5, 0.0, 0.25), (0.0, 0.5, 0.25), (0.0, 0.0, 1.0))
IMAGE_PX = (60, 80)
REPOSITORY = Path(kd_ray.__file__).parents[1]
DIGEST_OF_TILTED_MASKS = """
import hashlib
import numpy as np
from kd_ray.views.geometry import chained_geometry, sample_mask

rng, digest = np.random.default_rng(0), hashlib.sha256()
for _ in range(40):
    step = tuple(map(tuple, (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3))).tolist()))
    geometry = chained_geometry([step, step], image_size_px=(61, 83), size_px=(97, 71), box=(0, 0, 83, 61))
    digest.update(sample_mask(rng.integers(0, 200, (61, 83), dtype=np.uint8), geometry, fill=255))
    digest.update(geometry.to_image(rng.random((101, 2)) * 70))
print(digest.hexdigest())
"""
# as NumPy 2.4 names them, and as earlier ones did; a name it does not know is a warning
NO_VECTOR_UNITS = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 AVX512F AVX512_SKX"

sizes_px = st.tuples(st.integers(1, 70), st.integers(1, 70))
shares = st.floats(0.05, 1.0)
flips = st.booleans().map(lambda flipped: FlipParams(flipped=flipped))
crops = st.builds(
    lambda x, y, width, height: CropParams(left=x * (1 - width), top=y * (1 - height), width=width, height=height),
    st.floats(0, 1),
    st.floats(0, 1),
    shares,
    shares,
) | st.builds(CenterCropParams, crop_fraction=shares)
views: st.SearchStrategy[ViewParams] = st.tuples(crops, flips)


def chain(*steps: Projection, size_px: tuple[int, int] = (100, 100)) -> ViewGeometry:
    return chained_geometry(steps, image_size_px=IMAGE_PX, size_px=size_px, box=(0, 0, 80, 60))


def area(polygon_K2: NDArray[np.float64]) -> float:
    """Signed, by the shoelace formula."""
    x, y = polygon_K2[:, 0], polygon_K2[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def star(seed: int, *, num_points: int = 9) -> NDArray[np.float64]:
    """A simple polygon around the centre of the image, convex or not, that reaches beyond it."""
    rng = np.random.default_rng(seed)
    angles = (np.arange(num_points) + rng.uniform(0, 0.9, num_points)) * 2 * np.pi / num_points
    return 0.5 + rng.uniform(0.05, 0.9, (num_points, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


class TestMasks:
    @settings(max_examples=200, deadline=None)
    @given(
        image_size_px=sizes_px | st.sampled_from([(4000, 30), (30, 4000)]),
        params=views,
        size_px=sizes_px,
        seed=st.integers(0, 99),
    )
    @example((30, 4000), (CenterCropParams(crop_fraction=0.99999), FlipParams(flipped=False)), (15, 2), 0)
    def test_it_is_the_nearest_rendering_of_the_mask(
        self, image_size_px: tuple[int, int], params: ViewParams, size_px: tuple[int, int], seed: int
    ) -> None:
        """But where a centre falls on the edge of a pixel: Pillow adds steps up there, and rounding decides."""
        mask_HW = np.random.default_rng(seed).integers(0, 256, image_size_px, dtype=np.uint8)
        found = mask_in_view(mask_HW, params, size_px=size_px, fill=255)
        image_HW3 = np.ascontiguousarray(np.repeat(mask_HW[..., None], 3, axis=2))
        rendered = render(image_HW3, params, size_px=size_px, interpolation="nearest")[..., 0]
        centers = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in size_px[::-1])), axis=-1)
        sources = view_geometry(params, image_size_px, size_px=size_px).to_image(centers)
        decided = is_inside_a_pixel(sources)
        np.testing.assert_array_equal(found[decided], rendered[decided])

    @pytest.mark.parametrize("factor", [2, 4])
    @pytest.mark.parametrize("params", [(WHOLE,), (WHOLE, FLIPPED), (HALF,), (CenterCropParams(crop_fraction=1.0),)])
    def test_shrunk_by_an_even_factor_every_centre_is_on_an_edge_and_pillow_agrees(
        self, params: ViewParams, factor: int
    ) -> None:
        mask_HW = np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)
        size_px = (80 // factor, 80 // factor) if params[0] is not HALF else (40 // factor, 40 // factor)
        rendered = render(np.repeat(mask_HW[..., None], 3, axis=2), params, size_px=size_px, interpolation="nearest")
        np.testing.assert_array_equal(mask_in_view(mask_HW, params, size_px=size_px), rendered[..., 0])

    def test_a_flipped_mask_is_the_mask_flipped_also_where_centres_fall_on_edges(self) -> None:
        """Every width up to 48 at every other: rounding alone would decide some otherwise from the other side."""
        row_1W = np.arange(48, dtype=np.uint8)[None]
        for width, new_width in product(range(1, 49), repeat=2):
            mask_1W, size_px = row_1W[:, :width], (1, new_width)
            plain, flipped = (mask_in_view(mask_1W, each, size_px=size_px) for each in ((WHOLE,), (WHOLE, FLIPPED)))
            np.testing.assert_array_equal(flipped, plain[:, ::-1])

    @settings(deadline=None)
    @given(image_size_px=sizes_px, params=views, size_px=sizes_px)
    def test_a_crop_never_invents_a_class(
        self, image_size_px: tuple[int, int], params: ViewParams, size_px: tuple[int, int]
    ) -> None:
        mask_HW = np.random.default_rng(0).choice(np.array([3, 200], dtype=np.uint8), image_size_px)
        found = mask_in_view(mask_HW, params, size_px=size_px, fill=77)
        assert found.shape == size_px
        assert found.dtype == np.uint8
        assert set(np.unique(found)) <= {3, 200}

    def test_the_whole_mask_at_its_own_size_comes_back_and_is_another_array(self) -> None:
        mask_HW = np.arange(12, dtype=np.uint8).reshape(3, 4)
        found = mask_in_view(mask_HW, (WHOLE,), size_px=(3, 4))
        np.testing.assert_array_equal(found, mask_HW)
        assert not np.shares_memory(found, mask_HW)

    def test_masks_of_more_than_256_classes(self) -> None:
        mask_HW = np.array([[300, 65535]], dtype=np.uint16)
        found = mask_in_view(mask_HW, (WHOLE, FLIPPED), size_px=(1, 4))
        assert found.dtype == np.uint16
        assert found.tolist() == [[65535, 65535, 300, 300]]

    def test_padding_is_filled(self) -> None:
        found = sample_mask(np.full(IMAGE_PX, 7, dtype=np.uint8), chain(SHRUNK, size_px=(4, 8)), fill=255)
        content = [255, 255, 7, 7, 7, 7, 255, 255]
        assert found.tolist() == [[255] * 8, content, content, [255] * 8]

    @pytest.mark.parametrize("steps", [(TURNED,), (TILTED,), (SHRUNK, TURNED), (HALVED, TURNED, FLIP)])
    def test_turned_masks_have_the_class_at_each_centre(self, steps: tuple[Projection, ...]) -> None:
        mask_HW = np.random.default_rng(0).integers(0, 200, IMAGE_PX, dtype=np.uint8)
        geometry = chain(*steps, size_px=(37, 51))
        found = sample_mask(mask_HW, geometry, fill=255)
        centers = np.stack(np.meshgrid(np.arange(51) + 0.5, np.arange(37) + 0.5), axis=-1)
        shown, sources = geometry.shows(centers), geometry.to_image(centers)
        decided = shown & is_inside_a_pixel(sources)
        x, y = np.moveaxis(np.floor(sources[decided]).astype(int), -1, 0)
        np.testing.assert_array_equal(found[decided], mask_HW[y, x])
        assert (found[~shown] == 255).all()
        assert 0 < shown.sum() < shown.size
        assert decided.sum() > 0.9 * shown.sum()

    def test_the_vector_units_of_the_cpu_decide_no_bit(self) -> None:
        digests = [
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", DIGEST_OF_TILTED_MASKS],
                stdout=subprocess.PIPE,
                env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
                check=True,
            ).stdout
            for environment in ({}, {"NPY_DISABLE_CPU_FEATURES": NO_VECTOR_UNITS})
        ]
        assert len(digests[0]) == 65
        assert digests[0] == digests[1]


class TestBoxes:
    @settings(max_examples=200, deadline=None)
    @given(params=views, size_px=sizes_px, seed=st.integers(0, 999))
    def test_upright_boxes_are_cut_as_intervals_are(
        self, params: ViewParams, size_px: tuple[int, int], seed: int
    ) -> None:
        corners = np.sort(np.random.default_rng(seed).random((8, 2, 2)), axis=1)
        geometry = view_geometry(params, IMAGE_PX, size_px=size_px)
        found = boxes_in_view(corners.reshape(8, 4), geometry)
        moved = np.sort(geometry.to_view(corners * (80, 60)), axis=1)
        cut = np.clip(moved, 0, size_px[::-1])
        expected = np.prod(cut[:, 1] - cut[:, 0], axis=-1) / np.prod(moved[:, 1] - moved[:, 0], axis=-1)
        np.testing.assert_allclose(found.visible_fraction, expected, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.kept, found.visible_fraction > 0)
        np.testing.assert_allclose(found.corners[found.kept], cut.reshape(8, 4)[found.kept], rtol=0, atol=1e-9)
        assert not found.corners[~found.kept].any()

    def test_inside_across_and_outside_by_hand(self) -> None:
        inside, across, outside = (0.3, 0.3, 0.5, 0.5), (0.0, 0.25, 0.5, 0.75), (0.8, 0.8, 0.9, 0.9)
        geometry = view_geometry((HALF, FLIPPED), (100, 100), size_px=(50, 100))
        corners, kept, visible = boxes_in_view(np.array([inside, across, outside]), geometry)
        assert kept.tolist() == [True, True, False]
        np.testing.assert_allclose(visible, [1.0, 0.5, 0.0])
        np.testing.assert_allclose(corners, [(50, 5, 90, 25), (50, 0, 100, 50), (0, 0, 0, 0)])

    def test_too_little_of_a_box_is_not_kept(self) -> None:
        across = np.array([(0.0, 0.25, 0.5, 0.75)])
        geometry = view_geometry((HALF,), (100, 100), size_px=(50, 50))
        assert boxes_in_view(across, geometry, min_visible_fraction=0.49).kept.all()
        corners, kept, visible = boxes_in_view(across, geometry, min_visible_fraction=0.51)
        assert not kept.any()
        assert not corners.any()
        assert visible.tolist() == [0.5]

    def test_a_box_that_touches_the_view_or_has_no_area_is_not_kept(self) -> None:
        corners = np.array([(0.0, 0.0, 0.25, 1.0), (0.4, 0.4, 0.4, 0.6)])
        found = boxes_in_view(corners, view_geometry((HALF,), (100, 100), size_px=(50, 50)))
        assert found.visible_fraction.tolist() == [0, 0]
        assert not found.kept.any()

    def test_a_turned_box_has_the_corners_of_what_is_visible(self) -> None:
        """The turned square (0.2, 0.2, 0.8, 0.8) reaches 0.42 from the centre, the whole image 0.7: it is cut."""
        square, whole = boxes_in_view(np.array([(0.2, 0.2, 0.8, 0.8), (0, 0, 1, 1)]), chain(TURNED)).corners
        np.testing.assert_allclose(square, [8, 8, 92, 92])
        np.testing.assert_allclose(whole, [0, 0, 100, 100])

    def test_no_boxes_give_no_boxes(self) -> None:
        found = boxes_in_view(np.zeros((0, 4)), chain())
        assert [each.shape for each in found] == [(0, 4), (0,), (0,)]


class TestPolygons:
    @settings(max_examples=100, deadline=None)
    @given(seed=st.integers(0, 10_000), x=st.floats(0.1, 0.9), y=st.floats(0.1, 0.9), flip=flips)
    def test_four_crops_that_share_the_image_share_every_polygon_s_area(
        self, seed: int, x: float, y: float, flip: FlipParams
    ) -> None:
        """What is cut off in one is in another: nothing lost, nothing twice."""
        polygon = star(seed)
        tiles = [
            CropParams(left=left, top=top, width=width, height=height)
            for left, width in ((0.0, x), (x, 1 - x))
            for top, height in ((0.0, y), (y, 1 - y))
        ]
        total = 0.0
        for tile in tiles:
            (part,) = polygons_in_view([polygon], view_geometry((tile, flip), IMAGE_PX, size_px=(32, 48)))
            total += abs(area(part)) * (tile.width * tile.height) / (32 * 48)
        (whole,) = polygons_in_view([polygon], view_geometry((WHOLE,), IMAGE_PX, size_px=(32, 48)))
        assert total == pytest.approx(area(whole) / (32 * 48), abs=1e-12)

    @pytest.mark.parametrize("steps", [(TURNED,), (SHRUNK, TURNED), (SHRUNK,)])
    def test_an_affine_map_multiplies_areas_by_its_determinant(self, steps: tuple[Projection, ...]) -> None:
        small = 0.5 + (star(3) - 0.5) / 4  # stays inside
        (found,) = polygons_in_view([small], chain(*steps))
        determinant = np.prod([np.linalg.det(np.array(step)) for step in steps])
        assert area(found) == pytest.approx(area(small) * determinant * 100 * 100)

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10_000), steps=st.lists(st.sampled_from([TURNED, TILTED, SHRUNK]), max_size=3))
    def test_the_area_is_that_of_the_pixels_whose_centre_is_inside(self, seed: int, steps: list[Projection]) -> None:
        """Also of a polygon under a perspective, and where padding or an earlier step cuts it: counted, not clipped."""
        geometry, polygon = chain(*steps, size_px=(200, 200)), star(seed)
        (found,) = polygons_in_view([polygon], geometry)
        centers = np.stack(np.meshgrid(np.arange(200) + 0.5, np.arange(200) + 0.5), axis=-1)
        counted = contains(polygon * (80, 60), geometry.to_image(centers)) & geometry.shows(centers)
        outline_px = 12 * 200  # at most; pixels on the outline are off by less than half, to both sides
        assert abs(abs(area(found)) - counted.sum()) <= 0.1 * outline_px

    def test_a_triangle_across_the_corner_by_hand(self) -> None:
        triangle = np.array([(0.5, 0.5), (1.5, 0.5), (0.5, 1.5)])
        (found,) = polygons_in_view([triangle], view_geometry((WHOLE,), (10, 10), size_px=(10, 10)))
        assert {tuple(point) for point in found.tolist()} == {(5, 5), (10, 5), (10, 10), (5, 10)}

    def test_a_polygon_inside_keeps_its_points_in_order(self) -> None:
        polygon = np.array([(0.3, 0.3), (0.6, 0.35), (0.5, 0.6)])
        (found,) = polygons_in_view([polygon], view_geometry((HALF, FLIPPED), (100, 100), size_px=(50, 50)))
        np.testing.assert_allclose(found, [(45, 5), (15, 10), (25, 35)])

    def test_x_and_y_in_turn_are_a_polygon_too(self) -> None:
        geometry = view_geometry((HALF, FLIPPED), (100, 100), size_px=(50, 50))
        flat, points = polygons_in_view([star(0).ravel().tolist(), star(0)], geometry)
        np.testing.assert_array_equal(flat, points)

    def test_what_is_not_visible_is_empty_and_keeps_its_place(self) -> None:
        outside, touching, inside = ([(x, 0.4), (x + 0.1, 0.4), (x, 0.6)] for x in (0.0, 0.15, 0.5))
        geometry = view_geometry((HALF,), (100, 100), size_px=(50, 50))
        found = polygons_in_view([np.array(each) for each in (outside, touching, inside)], geometry)
        assert [each.shape for each in found] == [(0, 2), (0, 2), (3, 2)]

    @settings(deadline=None)
    @given(seed=st.integers(0, 10_000), params=views, size_px=sizes_px)
    def test_no_point_leaves_the_view(self, seed: int, params: ViewParams, size_px: tuple[int, int]) -> None:
        (found,) = polygons_in_view([star(seed)], view_geometry(params, IMAGE_PX, size_px=size_px))
        assert (found >= 0).all()
        assert (found <= size_px[::-1]).all()


def is_inside_a_pixel(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points [..., 2] are so far from the edges of pixels that rounding does not decide which it is.

    Pillow takes a box in float32, which is off by up to 1.2e-4 px at 4000.
    """
    inside: NDArray[np.bool_] = (np.abs(points - np.rint(points)) > 1e-3).all(axis=-1)
    return inside


def contains(polygon_K2: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """By the even-odd rule: an oracle that shares nothing with clipping."""
    inside = np.zeros(points.shape[:-1], dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon_K2, np.roll(polygon_K2, -1, axis=0), strict=True):
        crosses = (y0 > points[..., 1]) != (y1 > points[..., 1])
        inside ^= crosses & (points[..., 0] < x0 + (points[..., 1] - y0) * (x1 - x0) / (y1 - y0))
    return inside
