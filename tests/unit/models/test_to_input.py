"""Pixels to network input, against plain NumPy."""

import numpy as np
import pytest
import torch

from kd_ray.config.models import Input
from kd_ray.models import to_input

INPUT = Input(size_px=(4, 5), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
PIXELS_BHWC = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
WANTED_BCHW = ((PIXELS_BHWC / 255.0 - INPUT.mean) / INPUT.std).transpose(0, 3, 1, 2)


def test_equals_numpy() -> None:
    # 1e-6: float32 against float64.
    np.testing.assert_allclose(to_input(PIXELS_BHWC, INPUT).numpy(), WANTED_BCHW, atol=1e-6)


def test_tensor_and_array_give_the_same() -> None:
    assert torch.equal(to_input(torch.from_numpy(PIXELS_BHWC), INPUT), to_input(PIXELS_BHWC, INPUT))


def test_read_only_and_flipped_arrays_are_taken() -> None:
    flipped = PIXELS_BHWC[:, :, ::-1]
    flipped.flags.writeable = False
    np.testing.assert_allclose(to_input(flipped, INPUT).numpy(), WANTED_BCHW[:, :, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cast_comes_last(dtype: torch.dtype) -> None:
    assert torch.equal(to_input(PIXELS_BHWC, INPUT, dtype=dtype), to_input(PIXELS_BHWC, INPUT).to(dtype))
