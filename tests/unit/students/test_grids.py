"""Grids that cover different parts of a view: compared at the same places of the image, or not at all."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_ray.config.losses import FeatureLoss
from kd_ray.config.student import Student
from kd_ray.models.shapes import grid_cover
from kd_ray.students import build_student
from kd_ray.students.grids import TargetGrid
from kd_ray.students.heads import resample_grid
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.views import CropParams, FlipParams, view_geometry
from kd_ray.views.geometry import sample_grid

IMAGE_PX, VIEW_PX = (300, 400), (50, 70)
GEOMETRY = view_geometry(
    (CropParams(left=0.1, top=0.2, width=0.5, height=0.6), FlipParams(flipped=True)), IMAGE_PX, size_px=VIEW_PX
)
# a student with cells of 16 px that pads to 64 x 80, a teacher with cells of 10 px that leaves nothing over
OWN_PX, TARGET_PX = 16, 10
OWN_GRID, TARGET_SIZE = (4, 5), (5, 7)
GRID = TargetGrid(size=TARGET_SIZE, cover=(1.0, 1.0), own_cover=(64 / 50, 80 / 70))


def ramp(grid: tuple[int, int], cell_px: int) -> Tensor:
    """[1, H, W, 2]: a linear function of the place in the image, at the centres of cells of a view."""
    rows, columns = ((np.arange(count) + 0.5) * cell_px for count in grid)
    in_view = np.stack(np.meshgrid(columns, rows), axis=-1)
    in_image = GEOMETRY.to_image(in_view)
    found = np.stack([in_image @ [0.01, 0.02] + 3.0, in_image @ [-0.03, 0.005]], axis=-1)
    return torch.from_numpy(found.astype(np.float32))[None]


def between_centers() -> Tensor:
    """Cells of the target within the outermost centres of the student's: beyond these nothing is known of a slope."""
    rows, columns = ((torch.arange(count) + 0.5) * TARGET_PX >= OWN_PX / 2 for count in TARGET_SIZE)
    return rows[:, None] & columns[None, :] & GRID.valid()


def test_a_ramp_in_the_image_is_the_same_ramp_on_the_other_grid() -> None:
    own_BHWD, target_BHWD = ramp(OWN_GRID, OWN_PX), ramp(TARGET_SIZE, TARGET_PX)
    inside_HW = between_centers()
    assert int(inside_HW.sum()) == 4 * 6
    torch.testing.assert_close(GRID.resample(own_BHWD)[:, inside_HW], target_BHWD[:, inside_HW], rtol=0, atol=1e-5)
    naive_BHWD = resample_grid(own_BHWD, TARGET_SIZE)
    assert float((naive_BHWD - target_BHWD)[:, inside_HW].abs().max()) > 0.1


def test_places_are_those_of_the_geometry() -> None:
    """The oracle: `sample_grid` at the target's centres, in cells of the student's grid."""
    own_BHWD = torch.randn(1, *OWN_GRID, 3)
    rows, columns = ((np.arange(count) + 0.5) * TARGET_PX / OWN_PX - 0.5 for count in TARGET_SIZE)
    wanted = sample_grid(own_BHWD[0].numpy(), np.stack(np.meshgrid(columns, rows), axis=-1))
    np.testing.assert_allclose(GRID.resample(own_BHWD)[0].numpy(), wanted, atol=1e-6)


def test_same_cover_is_the_plain_resampling_bit_for_bit() -> None:
    features_BHWD = torch.randn(2, 6, 5, 3)
    for cover in ((1.0, 1.0), (1.28, 1.0)):
        grid = TargetGrid(size=(3, 7), cover=cover, own_cover=cover)
        assert torch.equal(grid.resample(features_BHWD), resample_grid(features_BHWD, (3, 7)))


def test_weights_are_those_of_the_plain_resampling_where_covers_come_to_be_equal() -> None:
    """A cover that differs by nothing one can see gives what equal ones give, also where cells are merged."""
    features_BHWD = torch.randn(2, 9, 8, 3)
    grid = TargetGrid(size=(3, 11), own_cover=(1.0 + 1e-12, 1.0))
    inside = slice(1, -1)  # PyTorch's triangle is cut off at the edge where this one is moved inside
    wanted_BHWD = resample_grid(features_BHWD, (9, 11))
    np.testing.assert_allclose(
        TargetGrid(size=(9, 11), own_cover=(1.0 + 1e-12, 1.0)).resample(features_BHWD), wanted_BHWD, atol=1e-5
    )
    merged_BHWD = features_BHWD.mean(dim=2, keepdim=True).expand(-1, -1, 11, -1)
    found, plain = grid.resample(merged_BHWD), resample_grid(merged_BHWD, (3, 11))
    np.testing.assert_allclose(found[:, inside], plain[:, inside], atol=1e-5)


def test_cells_beyond_the_view_or_the_students_grid_are_not_valid() -> None:
    padded_teacher = TargetGrid(size=(4, 4), cover=(64 / 36, 1.0))
    assert padded_teacher.valid().tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    short_student = TargetGrid(size=(2, 5), own_cover=(1.0, 48 / 70))
    assert short_student.valid()[0].tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("model", "size_px", "stage", "wanted"),
    [
        ({"kind": "cifar_resnet", "depth": 8}, (32, 32), -1, (1.0, 1.0)),
        ({"kind": "cifar_resnet", "depth": 8}, (30, 32), -1, (32 / 30, 1.0)),
        ({"kind": "cifar_resnet", "depth": 8}, (30, 33), 0, (1.0, 1.0)),
        ({"kind": "timm", "name": "test_resnet"}, (100, 96), -1, (128 / 100, 1.0)),
        (
            {"kind": "timm", "name": "test_vit", "args": {"dynamic_img_size": True, "dynamic_img_pad": True}},
            (50, 64),
            -1,
            (64 / 50, 1.0),
        ),
    ],
    ids=str,
)
def test_cover_is_of_whole_cells(model: dict, size_px: tuple[int, int], stage: int, wanted: tuple) -> None:
    config = Student.model_validate({"model": model, "input": {"size_px": size_px}}).model
    assert grid_cover(config, size_px=size_px, spatial_stage=stage) == wanted


def test_a_loss_leaves_out_the_cells_that_are_not_valid() -> None:
    loss = FeatureLoss(kind="feature", output="spatial", distance="mse")
    config = Student.model_validate({"model": {"kind": "cifar_resnet", "depth": 8}, "input": {"size_px": (32, 32)}})
    covers = ({0: ((2.0, 1.0), (1.0, 1.0))},)  # the lower half of the teacher's grid is padding
    torch.manual_seed(0)
    student = build_student(config, num_classes=3, losses=[loss], target_shapes=({0: (4, 4, 6)},), covers=covers)
    outputs = student(torch.randn(2, 3, 32, 32))
    target_BHWD = torch.randn(2, 4, 4, 6)
    losses, labels = WeightedLosses(losses=(loss,), teachers=("t",)), Labels.unmixed(torch.tensor([0, 1]))
    total, _ = losses(outputs, labels, {("t", "spatial"): target_BHWD})
    spoiled_BHWD = target_BHWD.clone()
    spoiled_BHWD[:, 2:] = 1e6
    spoiled, _ = losses(outputs, labels, {("t", "spatial"): spoiled_BHWD})
    assert torch.equal(total, spoiled)
    wanted = (outputs["feature_0"][:, :2] - target_BHWD[:, :2]).square().mean()
    torch.testing.assert_close(total, wanted)
