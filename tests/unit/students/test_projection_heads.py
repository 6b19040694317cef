"""Projection heads and the resampling of grids."""

import numpy as np
import pytest
import torch

from kd_ray.config.losses import Head
from kd_ray.students.heads import build_head, resample_grid


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_head_maps_the_last_axis_of_vectors_and_maps_alike(kind: str) -> None:
    head = build_head(Head.model_validate({"kind": kind, "hidden_width": 7}), in_width=5, out_width=3)
    features_BHWD = torch.randn(2, 4, 6, 5)
    projected_BHWD = head(features_BHWD)
    assert projected_BHWD.shape == (2, 4, 6, 3)
    torch.testing.assert_close(head(features_BHWD[:, 1, 2]), projected_BHWD[:, 1, 2])


@pytest.mark.parametrize(("kind", "wanted"), [("linear", 10 + 5 * 3 + 3), ("mlp", 10 + 5 * 7 + 7 + 14 + 7 * 3 + 3)])
def test_head_has_the_documented_parameters(kind: str, wanted: int) -> None:
    head = build_head(Head.model_validate({"kind": kind, "hidden_width": 7}), in_width=5, out_width=3)
    assert sum(p.numel() for p in head.parameters()) == wanted


def test_equal_grid_is_left_alone() -> None:
    features_BHWD = torch.randn(2, 3, 4, 5)
    assert resample_grid(features_BHWD, (3, 4)) is features_BHWD


@pytest.mark.parametrize("size", [(2, 2), (7, 5), (12, 16), (3, 8)])
def test_constant_map_stays_constant(size: tuple[int, int]) -> None:
    resampled = resample_grid(torch.full((1, 6, 4, 2), 3.0), size)
    assert resampled.shape == (1, *size, 2)
    torch.testing.assert_close(resampled, torch.full_like(resampled, 3.0))


@pytest.mark.parametrize("size", [9, 20])
def test_enlarging_is_linear_interpolation_between_cell_centres(size: int) -> None:
    row = np.random.default_rng(0).normal(size=5).astype(np.float32)
    centres = (np.arange(size) + 0.5) * 5 / size - 0.5
    wanted = np.interp(centres, np.arange(5), row)  # holds the outermost value, as PyTorch does
    features_BHWD = torch.from_numpy(row)[None, None, :, None].expand(1, 3, 5, 1)
    found = resample_grid(features_BHWD, (3, size))
    np.testing.assert_allclose(found[0, 1, :, 0].numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shrinking_weighs_cells_by_a_triangle_over_all_that_are_merged(size: int) -> None:
    row = np.random.default_rng(0).normal(size=8).astype(np.float32)
    scale = 8 / size
    centres = (np.arange(size) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(8) + 0.5 - centres[:, None]) / scale)
    wanted = (weights / weights.sum(axis=1, keepdims=True)) @ row
    features_BHWD = torch.from_numpy(row)[None, :, None, None].expand(1, 8, 3, 1)
    found = resample_grid(features_BHWD, (size, 3))
    np.testing.assert_allclose(found[0, :, 1, 0].numpy(), wanted, atol=1e-5)
