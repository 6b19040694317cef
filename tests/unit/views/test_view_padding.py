"""Crops that reach beyond the image: fill exactly where geometry sees no content, the plain view everywhere else."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from kd_ray.config.views import Interpolation, RendererVersion
from kd_ray.views import (
    CropParams,
    FlipParams,
    PaddedCropParams,
    ResizePadParams,
    ViewParams,
    box_px,
    boxes_in_view,
    mask_in_view,
    normalized_coords,
    patch_centers,
    polygons_in_view,
    render,
    view_geometry,
)
from kd_ray.views.color import Pixels
from kd_ray.views.geometry import grid_map

FILL = (255, 0, 255)
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
VERSIONS: tuple[RendererVersion, ...] = (1, 2)

sides_px = st.integers(1, 40)
sizes_px = st.tuples(sides_px, sides_px)
versions = st.sampled_from(VERSIONS)
interpolations = st.sampled_from(INTERPOLATIONS)
starts = st.floats(-2.0, 1.5)
lengths = st.floats(0.05, 4.0)
padded_crops = st.builds(PaddedCropParams, left=starts, top=starts, width=lengths, height=lengths, fill=st.just(FILL))
# edges that fall on those of pixels, and centres that fall on the edges of the image
eighths = st.builds(
    PaddedCropParams,
    left=st.integers(-16, 8).map(lambda eighth: eighth / 8),
    top=st.integers(-16, 8).map(lambda eighth: eighth / 8),
    width=st.integers(1, 24).map(lambda eighth: eighth / 8),
    height=st.integers(1, 24).map(lambda eighth: eighth / 8),
    fill=st.just(FILL),
)
crops = padded_crops | eighths | st.just(ResizePadParams(fill=FILL))


def middling(size_px: tuple[int, int]) -> Pixels:
    """Noise so far from black and white that no kernel makes a level of FILL of it."""
    return np.random.default_rng(0).integers(100, 150, (*size_px, 3), dtype=np.uint8)


def view_of(
    image_HW3: Pixels, params: ViewParams, size_px: tuple[int, int], how: tuple[Interpolation, RendererVersion]
) -> Pixels:
    return render(image_HW3, params, size_px=size_px, interpolation=how[0], renderer_version=how[1])


class TestFill:
    @settings(max_examples=400, deadline=None)
    @given(
        image_size_px=sizes_px | st.sampled_from([(1, 1), (3, 500), (500, 3), (97, 41)]),
        crop=crops,
        flipped=st.booleans(),
        size_px=sizes_px,
        how=st.tuples(interpolations, versions),
    )
    @example((10, 600), ResizePadParams(fill=FILL), False, (32, 32), ("bilinear", 2))
    @example(
        (32, 32), PaddedCropParams(left=-0.5, top=0.5, width=1.0, height=1.0, fill=FILL), True, (1, 1), ("bicubic", 2)
    )
    def test_is_exactly_where_geometry_shows_nothing_and_masks_have_their_ignore_value(
        self,
        image_size_px: tuple[int, int],
        crop: PaddedCropParams | ResizePadParams,
        flipped: bool,
        size_px: tuple[int, int],
        how: tuple[Interpolation, RendererVersion],
    ) -> None:
        params = (crop, FlipParams(flipped=flipped))
        view_hw3 = view_of(middling(image_size_px), params, size_px, how)
        assert view_hw3.shape == (*size_px, 3)
        assert view_hw3.flags.c_contiguous
        assert view_hw3.flags.writeable
        filled_hw = (view_hw3 == FILL).all(axis=2)
        geometry = view_geometry(params, image_size_px, size_px=size_px)
        np.testing.assert_array_equal(filled_hw, ~geometry.shows(patch_centers(size_px, 1)))
        mask_hw = mask_in_view(np.zeros(image_size_px, np.uint8), params, size_px=size_px, fill=255)
        np.testing.assert_array_equal(filled_hw, mask_hw == 255)

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_a_view_of_nothing_but_padding_is_all_fill(
        self, interpolation: Interpolation, version: RendererVersion
    ) -> None:
        """An image thinner than a pixel of its letterbox, between the centres of two rows."""
        view_hw3 = view_of(middling((10, 6000)), (ResizePadParams(fill=FILL),), (32, 32), (interpolation, version))
        assert (view_hw3 == FILL).all()

    @pytest.mark.parametrize("version", VERSIONS)
    def test_memory_follows_the_image_and_not_the_box(self, version: RendererVersion) -> None:
        image_HW3 = middling((10, 6000))
        crop = PaddedCropParams(left=0.0, top=-299.5, width=1.0, height=600.0, fill=FILL)  # 6,000 x 6,000
        tracemalloc.start()
        view_hw3 = view_of(image_HW3, (crop,), (31, 31), ("bilinear", version))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (view_hw3 != FILL).any(axis=2).sum() == 31  # the middle row
        step = 6000 / 31
        assert peak < (6000 + 2 * step) * (10 + 2 * step) * 3


class TestContent:
    @settings(max_examples=200, deadline=None)
    @given(
        image_size_px=st.tuples(st.integers(2, 30), st.integers(2, 30)),
        step=st.sampled_from([1 / 3, 0.5, 1.0, 2.0, 3.0, 20.0]),
        frame=st.tuples(*[st.integers(0, 5)] * 4),
        how=st.tuples(interpolations, versions),
    )
    def test_is_the_plain_view_of_the_whole_image(
        self,
        image_size_px: tuple[int, int],
        step: float,
        frame: tuple[int, int, int, int],
        how: tuple[Interpolation, RendererVersion],
    ) -> None:
        """Where the edges of the image lie on those of pixels of the view: a picture in a frame."""
        image_HW3 = middling((image_size_px[0], image_size_px[1]))
        height, width = (max(round(side / step), 1) for side in image_size_px)
        above, below, before, after = frame
        crop = PaddedCropParams(
            left=-before / width,
            top=-above / height,
            width=(before + width + after) / width,
            height=(above + height + below) / height,
            fill=FILL,
        )
        whole = CropParams(left=0.0, top=0.0, width=1.0, height=1.0)
        framed = view_of(image_HW3, (crop,), (above + height + below, before + width + after), how)
        plain = view_of(image_HW3, (whole,), (height, width), how)
        inner = framed[above : above + height, before : before + width]
        assert np.abs(inner.astype(int) - plain).max() <= 1  # boxes may differ in their last bit
        assert (inner != plain).mean() < 0.1

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_a_crop_that_stays_inside_is_the_plain_crop(
        self, interpolation: Interpolation, version: RendererVersion
    ) -> None:
        box = {"left": 0.1, "top": 0.2, "width": 0.9, "height": 0.55}
        how = (interpolation, version)
        padded = view_of(middling((41, 57)), (PaddedCropParams(**box, fill=FILL),), (24, 24), how)
        np.testing.assert_array_equal(padded, view_of(middling((41, 57)), (CropParams(**box),), (24, 24), how))

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_pixel_cut_by_the_edge_sees_the_image_alone(self, version: RendererVersion) -> None:
        """A white image has no gray rim, though the outermost pixels reach beyond it by a quarter."""
        white_HW3 = np.full((16, 16, 3), 255, np.uint8)
        crop = PaddedCropParams(left=-0.265625, top=-0.265625, width=2.0, height=2.0, fill=(0, 0, 0))
        view_hw3 = view_of(white_HW3, (crop,), (16, 16), ("bilinear", version))
        assert set(np.unique(view_hw3).tolist()) == {0, 255}
        assert (view_hw3 == 255).all(axis=2).sum() == 64

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_a_random_crop_of_a_cifar_image_is_torchvision_s_pad_and_crop(
        self, interpolation: Interpolation, version: RendererVersion
    ) -> None:
        image_HW3 = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        padded = F.pad(torch.from_numpy(image_HW3).permute(2, 0, 1), [4], fill=[9, 8, 7])
        for top in range(9):
            for left in range(9):
                crop = PaddedCropParams(left=(left - 4) / 32, top=(top - 4) / 32, width=1.0, height=1.0, fill=(9, 8, 7))
                found = view_of(image_HW3, (crop,), (32, 32), (interpolation, version))
                expected = F.crop(padded, top, left, 32, 32).permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(found, expected)

    def test_a_letterbox_holds_the_whole_image_in_its_middle(self) -> None:
        crop = ResizePadParams(fill=FILL)
        assert box_px(crop, image_size_px=(300, 400), size_px=(64, 64)) == (0, -50, 400, 350)
        assert box_px(crop, image_size_px=(400, 300), size_px=(32, 64)) == (-250, 0, 550, 400)
        view_hw3 = view_of(middling((300, 400)), (crop,), (64, 64), ("bilinear", 2))
        assert np.flatnonzero((view_hw3 != FILL).any(axis=(1, 2))).tolist() == list(range(8, 56))


class TestGeometry:
    @settings(max_examples=200, deadline=None)
    @given(image_size_px=sizes_px, crop=crops, size_px=sizes_px, at=st.tuples(st.floats(0, 1), st.floats(0, 1)))
    def test_points_come_back(
        self,
        image_size_px: tuple[int, int],
        crop: PaddedCropParams | ResizePadParams,
        size_px: tuple[int, int],
        at: tuple[float, float],
    ) -> None:
        geometry = view_geometry((crop, FlipParams(flipped=True)), image_size_px, size_px=size_px)
        point = np.array([at[0] * image_size_px[1], at[1] * image_size_px[0]])
        np.testing.assert_allclose(geometry.to_image(geometry.to_view(point)), point, atol=1e-9)

    @pytest.mark.parametrize("flipped", [False, True])
    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_dot_is_rendered_where_geometry_says(self, flipped: bool, version: RendererVersion) -> None:
        """The centre of mass of a bright square of 3 pixels, within half a pixel of the view."""
        for row, column in ((5, 7), (20, 33), (28, 11)):
            image_HW3 = np.zeros((32, 40, 3), np.uint8)
            image_HW3[row - 1 : row + 2, column - 1 : column + 2] = 255
            params = (
                PaddedCropParams(left=-0.3, top=-0.2, width=1.7, height=1.55, fill=(0, 0, 0)),
                FlipParams(flipped=flipped),
            )
            view_hw = view_of(image_HW3, params, (48, 48), ("bilinear", version))[..., 0].astype(float)
            middles = np.arange(0.5, 48)
            found = ((view_hw.sum(axis=0) @ middles) / view_hw.sum(), (view_hw.sum(axis=1) @ middles) / view_hw.sum())
            geometry = view_geometry(params, (32, 40), size_px=(48, 48))
            expected = geometry.to_view(np.array([column + 0.5, row + 0.5]))
            assert np.abs(expected - found).max() < 0.1

    def test_patches_without_content_are_not_valid(self) -> None:
        whole = view_geometry((CropParams(left=0, top=0, width=1, height=1),), (60, 80), size_px=(64, 64))
        padded = view_geometry((ResizePadParams(fill=FILL),), (60, 80), size_px=(64, 64))
        coords, valid = grid_map(whole, 8, to_geometry=padded, to_patch_px=8)
        assert valid.any(axis=1).tolist() == [False, *[True] * 6, False]
        assert np.abs(normalized_coords(coords[valid], (8, 8))).max() <= 1

    def test_boxes_and_polygons_end_at_the_image_and_not_at_the_view(self) -> None:
        geometry = view_geometry((ResizePadParams(fill=FILL),), (60, 80), size_px=(80, 80))
        corners, kept, visible = boxes_in_view(np.array([[0.0, 0.0, 0.5, 1.0]]), geometry)
        assert corners.tolist() == [[0.0, 10.0, 40.0, 70.0]]
        assert (kept.tolist(), visible.tolist()) == ([True], [1.0])
        (polygon,) = polygons_in_view([[-0.5, 0.0, 0.5, 0.0, 0.5, 1.0, -0.5, 1.0]], geometry)
        assert (polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()) == ([0.0, 10.0], [40.0, 70.0])
