"""Patch grids: the same points of the image in the grids of two renderings."""

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kd_ray.errors import RecipeError
from kd_ray.views import (
    CenterCropParams,
    CropParams,
    FlipParams,
    ViewParams,
    chained_geometry,
    grid_map,
    normalized_coords,
    patch_centers,
    render,
    sample_grid,
    view_geometry,
)
from kd_ray.views.warp import Projection

DOCUMENT = Path(__file__).parents[3] / "docs/views-geometry.md"
IMAGE_PX = (375, 500)
CROP = CropParams(left=0.1, top=0.2, width=0.75, height=0.6)
FLIPPED = FlipParams(flipped=True)


def patch_numbers(rows: int, cols: int) -> np.ndarray:
    """[rows, cols, 2]: each patch's own column and row, which a right map gives back as coordinates."""
    return np.stack(np.meshgrid(np.arange(cols, dtype=np.float64), np.arange(rows, dtype=np.float64)), axis=-1)


class TestPatchCenters:
    def test_by_hand(self) -> None:
        centers = patch_centers((28, 42), 14)
        assert centers.shape == (2, 3, 2)
        assert centers[0].tolist() == [[7, 7], [21, 7], [35, 7]]
        assert centers[1, 0].tolist() == [7, 21]

    @pytest.mark.parametrize(
        ("size_px", "advice"),
        [((518, 520), "518x518 or 518x532"), ((10, 518), "14x518"), ((224, 225), "224x224 or 224x238")],
    )
    def test_a_patch_that_does_not_divide_is_refused_with_sizes_that_would_do(
        self, size_px: tuple[int, int], advice: str
    ) -> None:
        with pytest.raises(RecipeError, match=f"patches of 14 px do not divide .* for instance {advice}, or another"):
            patch_centers(size_px, 14)


class TestGridMap:
    @pytest.mark.parametrize("params", [(CROP,), (CROP, FLIPPED), (CenterCropParams(crop_fraction=0.875),)])
    def test_a_grid_onto_itself_is_the_identity(self, params: ViewParams) -> None:
        geometry = view_geometry(params, IMAGE_PX, size_px=(224, 224))
        coords, valid = grid_map(geometry, 16, to_geometry=geometry, to_patch_px=16)
        np.testing.assert_allclose(coords, patch_numbers(14, 14), rtol=0, atol=1e-9)
        assert valid.all()

    @pytest.mark.parametrize("params", [(CROP,), (CROP, FLIPPED)])
    def test_14_at_518_against_16_at_224_by_hand(self, params: ViewParams) -> None:
        """One view at two sizes: patch i of 14 covers cells up to (i + 0.5) * 37 / 14 - 0.5 of 37."""
        large, small = (view_geometry(params, IMAGE_PX, size_px=(side, side)) for side in (518, 224))
        coords, valid = grid_map(large, 14, to_geometry=small, to_patch_px=16)
        np.testing.assert_allclose(coords, (patch_numbers(14, 14) + 0.5) * 37 / 14 - 0.5, rtol=0, atol=1e-9)
        assert valid.all()

    def test_a_flip_of_one_of_the_two_reverses_the_columns(self) -> None:
        plain, flipped = (view_geometry(params, IMAGE_PX, size_px=(96, 96)) for params in ((CROP,), (CROP, FLIPPED)))
        coords, valid = grid_map(plain, 16, to_geometry=flipped, to_patch_px=16)
        np.testing.assert_allclose(coords, patch_numbers(6, 6)[:, ::-1], rtol=0, atol=1e-9)
        assert valid.all()

    def test_what_the_other_view_does_not_show_is_not_valid(self) -> None:
        left_half = CropParams(left=0.0, top=0.0, width=0.5, height=1.0)
        whole = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
        part, all_of_it = (view_geometry((crop,), IMAGE_PX, size_px=(64, 64)) for crop in (left_half, whole))
        coords, valid = grid_map(part, 16, to_geometry=all_of_it, to_patch_px=16)
        assert valid.tolist() == [[True, True, False, False]] * 4
        np.testing.assert_allclose(coords[0, :, 0], [0.5, 2.5, 0, 0])

    def test_padding_is_not_valid_in_either_of_the_two(self) -> None:
        """The image in the left half of the view; right of it there is nothing to compare."""
        squeezed: Projection = ((0.5, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        padded = chained_geometry([squeezed], image_size_px=IMAGE_PX, size_px=(64, 64), box=(0, 0, 500, 375))
        _, valid = grid_map(padded, 16, to_geometry=padded, to_patch_px=16)
        assert valid.tolist() == [[True, True, False, False]] * 4

    def test_what_a_crop_cut_off_before_a_rotation_is_not_valid(self) -> None:
        """The other view shows all of the image, but this one has nothing in its corners."""
        crop: Projection = ((2.0, 0.0, -0.5), (0.0, 2.0, -0.5), (0.0, 0.0, 1.0))
        rotation: Projection = ((0.8, -0.6, 0.4), (0.6, 0.8, -0.2), (0.0, 0.0, 1.0))  # around the centre, by 37 degrees
        sizes = {"image_size_px": IMAGE_PX, "size_px": (64, 64), "box": (125, 93.75, 375, 281.25)}
        cut, whole = chained_geometry([crop, rotation], **sizes), chained_geometry([], **sizes)
        _, valid = grid_map(whole, 16, to_geometry=cut, to_patch_px=8)
        assert not valid[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert valid[2:-2, 2:-2].all()

    def test_an_image_decoded_at_half_its_size_gives_the_same_map(self) -> None:
        other = view_geometry((CROP, FLIPPED), (400, 480), size_px=(96, 96))
        own, half = (view_geometry((CROP,), size_px, size_px=(64, 64)) for size_px in ((400, 480), (200, 240)))
        found, expected = (grid_map(each, 8, to_geometry=other, to_patch_px=16) for each in (half, own))
        np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found[1], expected[1])

    def test_both_patches_must_divide(self) -> None:
        geometry = view_geometry((CROP,), IMAGE_PX, size_px=(224, 224))
        for sizes in ((15, 16), (16, 15)):
            with pytest.raises(RecipeError, match="patches of 15 px"):
                grid_map(geometry, sizes[0], to_geometry=geometry, to_patch_px=sizes[1])

    @settings(max_examples=60, deadline=None)
    @given(
        flips=st.tuples(st.booleans(), st.booleans()),
        left=st.floats(0.0, 0.3),
        top=st.floats(0.0, 0.3),
        width=st.floats(0.4, 0.7),
        height=st.floats(0.4, 0.7),
    )
    def test_patch_means_of_two_views_agree_at_the_same_points_of_the_image(
        self, flips: tuple[bool, bool], left: float, top: float, width: float, height: float
    ) -> None:
        """A ramp has its value at the centre of a patch as its mean there, whatever the size of the patch."""
        y_H1, x_1W = np.mgrid[:120, :160]
        image_HW3 = np.stack([x_1W * 1.5, y_H1 * 2.0, x_1W + y_H1 * 0.5], axis=-1).astype(np.uint8)
        drawn = CropParams(left=left, top=top, width=width, height=height)
        params: list[ViewParams] = [(CROP, FlipParams(flipped=flips[0])), (drawn, FlipParams(flipped=flips[1]))]
        sides, patches = (112, 64), (14, 16)
        geometries = [
            view_geometry(each, (120, 160), size_px=(side, side)) for each, side in zip(params, sides, strict=True)
        ]
        means = []
        for each, side, patch in zip(params, sides, patches, strict=True):
            view_hw3 = render(image_HW3, each, size_px=(side, side), interpolation="bilinear").astype(np.float64)
            means.append(view_hw3.reshape(side // patch, patch, side // patch, patch, 3).mean(axis=(1, 3)))
        coords, valid = grid_map(geometries[0], patches[0], to_geometry=geometries[1], to_patch_px=patches[1])
        inner = valid & (coords >= 0).all(axis=-1) & (coords <= 7).all(axis=-1)  # no cell to the other side at the edge
        assert inner.any()
        differences = np.abs(sample_grid(means[0], coords) - means[1])[inner]
        assert differences.max() <= 1.5  # of 255; levels are cut and rounded, a cell is 16 to 30 of them


class TestSampleGrid:
    @settings(max_examples=60, deadline=None)
    @given(
        grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        places=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        seed=st.integers(0, 999),
    )
    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
    def test_it_is_torch_s_grid_sample(
        self, dtype: type[np.floating], tolerance: float, grid: tuple[int, int], places: tuple[int, int], seed: int
    ) -> None:
        """Also beyond the edges. Torch computes places in the type of the values: 1e-7 of 9 cells in float32."""
        rng = np.random.default_rng(seed)
        values_HWD = rng.standard_normal((*grid, 5)).astype(dtype)
        coords = rng.uniform(-2, 10, (*places, 2))
        ours = sample_grid(values_HWD, coords)
        theirs = F.grid_sample(
            torch.from_numpy(values_HWD).permute(2, 0, 1)[None],
            torch.from_numpy(normalized_coords(coords, grid).astype(dtype))[None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), rtol=0, atol=tolerance)

    def test_float16_is_computed_in_float32(self) -> None:
        values_HWD = np.array([[[0.0], [1.0]]], dtype=np.float16)
        found = sample_grid(values_HWD, np.array([[[0.25, 0.0]]]))
        assert found.dtype == np.float32
        assert found.item() == 0.25

    def test_at_the_centres_the_very_values_come_back(self) -> None:
        values_HWD = np.random.default_rng(0).standard_normal((4, 6, 3), dtype=np.float32)
        np.testing.assert_array_equal(sample_grid(values_HWD, patch_numbers(4, 6)), values_HWD)

    def test_a_half_way_place_is_the_mean_of_four(self) -> None:
        values_HWD = np.arange(4.0).reshape(2, 2, 1)
        assert sample_grid(values_HWD, np.array([[[0.5, 0.5]]])).item() == 1.5


def test_the_edges_of_the_outermost_cells_are_minus_one_and_one() -> None:
    edges = normalized_coords(np.array([[-0.5, -0.5], [6.5, 3.5]]), (4, 7))
    assert edges.tolist() == [[-1, -1], [1, 1]]


def test_the_examples_of_the_document_are_true() -> None:
    found = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert found.attempted > 8
    assert found.failed == 0
