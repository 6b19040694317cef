"""Projection heads and the resampling of grids."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from kd_ray.config.heads import AttentionHead, Head, MlpHead
from kd_ray.config.losses import FeatureLoss
from kd_ray.students.heads import build_head, resample_grid

HEADS = [
    {"kind": "linear"},
    {"kind": "mlp", "hidden_width": 7},
    {"kind": "mlp", "hidden_width": 7, "num_inner": 2},
    {"kind": "conv", "hidden_width": 7},
    {"kind": "attention", "hidden_width": 8, "num_attention_heads": 2},
    {"kind": "attention", "hidden_width": 8, "num_attention_heads": 4, "num_blocks": 2},
]
ATTENTION_BLOCK = 16 + (8 * 24 + 24) + (8 * 8 + 8) + 16 + (8 * 32 + 32) + (32 * 8 + 8)
# in width 5, out width 3: norms, then linear maps
NUM_PARAMETERS = [
    10 + (5 * 3 + 3),
    10 + (5 * 7 + 7) + 14 + (7 * 3 + 3),
    10 + (5 * 7 + 7) + 2 * (14 + 7 * 7 + 7) + 14 + (7 * 3 + 3),
    10 + (9 * 5 * 7 + 7) + 14 + (7 * 3 + 3),
    10 + (5 * 8 + 8) + ATTENTION_BLOCK + 16 + (8 * 3 + 3),
    10 + (5 * 8 + 8) + 2 * ATTENTION_BLOCK + 16 + (8 * 3 + 3),
]
GRID_HEADS = HEADS[3:]


def head_of(config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return build_head(TypeAdapter(Head).validate_python(config), in_width=5, out_width=3)


@pytest.mark.parametrize("config", HEADS[:3], ids=str)
def test_head_maps_the_last_axis_of_vectors_and_maps_alike(config: dict[str, Any]) -> None:
    head = head_of(config)
    features_BHWD = torch.randn(2, 4, 6, 5)
    projected_BHWD = head(features_BHWD)
    assert projected_BHWD.shape == (2, 4, 6, 3)
    torch.testing.assert_close(head(features_BHWD[:, 1, 2]), projected_BHWD[:, 1, 2])


@pytest.mark.parametrize(("config", "wanted"), list(zip(HEADS, NUM_PARAMETERS, strict=True)), ids=str)
def test_head_has_the_documented_parameters(config: dict[str, Any], wanted: int) -> None:
    assert sum(p.numel() for p in head_of(config).parameters()) == wanted


@pytest.mark.parametrize("config", HEADS, ids=str)
def test_every_parameter_of_a_head_gets_a_gradient(config: dict[str, Any]) -> None:
    head = head_of(config)
    head(torch.randn(2, 4, 6, 5)).square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("config", GRID_HEADS, ids=str)
def test_head_for_grids_keeps_the_grid_and_the_samples_apart(config: dict[str, Any]) -> None:
    head = head_of(config)
    features_BHWD = torch.randn(3, 4, 6, 5)
    projected_BHWD = head(features_BHWD)
    assert projected_BHWD.shape == (3, 4, 6, 3)
    torch.testing.assert_close(head(features_BHWD[1:2]), projected_BHWD[1:2])


@pytest.mark.parametrize(("config", "num_reached"), [(GRID_HEADS[0], 9), (GRID_HEADS[1], 5 * 7)], ids=["conv", "all"])
def test_a_cell_reaches_its_neighbours_or_all(config: dict[str, Any], num_reached: int) -> None:
    head = head_of(config)
    features_BHWD = torch.randn(1, 5, 7, 5)
    changed_BHWD = features_BHWD.clone()
    changed_BHWD[0, 2, 3] = torch.randn(5)
    differ_HW = (head(changed_BHWD) - head(features_BHWD)).abs().amax(dim=-1)[0] > 1e-7
    assert int(differ_HW.sum()) == num_reached
    assert bool(differ_HW[1:4, 2:5].all())


def test_attention_block_is_pytorchs_pre_norm_layer() -> None:
    """The oracle: `nn.TransformerEncoderLayer` with the same weights."""
    block = head_of({"kind": "attention", "hidden_width": 8, "num_attention_heads": 2})[2]
    oracle = nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    own = block.state_dict()
    names = {
        "self_attn.in_proj_": "query_key_value.",
        "self_attn.out_proj.": "projection.",
        "norm1.": "attention_norm.",
        "norm2.": "mlp.0.",
        "linear1.": "mlp.1.",
        "linear2.": "mlp.3.",
    }
    oracle.load_state_dict(
        {f"{theirs}{kind}": own[f"{ours}{kind}"] for theirs, ours in names.items() for kind in ("weight", "bias")}
    )
    x_BHWD = torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(block(x_BHWD).flatten(1, 2), oracle(x_BHWD.flatten(1, 2)))


def test_default_head_has_the_dump_of_older_fingerprints() -> None:
    dumped = FeatureLoss(kind="feature", output="summary").model_dump(mode="json")
    assert dumped["head"] == {"kind": "linear", "hidden_width": 1024}
    assert "student_stage" not in dumped
    assert MlpHead(kind="mlp").model_dump(mode="json") == {"kind": "mlp", "hidden_width": 1024}


@pytest.mark.parametrize("kind", ["conv", "attention"])
def test_head_for_grids_on_a_summary_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match=f"a {kind} head works on grids, but output is summary"):
        FeatureLoss.model_validate({"kind": "feature", "output": "summary", "head": {"kind": kind}})


def test_width_that_the_attention_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"hidden_width \(10\) must be a multiple"):
        AttentionHead(kind="attention", hidden_width=10, num_attention_heads=4)


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
