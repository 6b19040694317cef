"""From rendered pixels to a network's input.

Shape letters: B batch, C channels, H and W pixels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.models import Input


def to_input(pixels_BHWC: NDArray[np.uint8] | Tensor, input: Input, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """(pixels / 255 - mean) / std as [B, 3, H, W], computed in float32 where the pixels are, then cast to `dtype`."""
    pixels = pixels_BHWC if isinstance(pixels_BHWC, Tensor) else to_tensor(pixels_BHWC)
    assert pixels.dtype == torch.uint8, f"pixels must be uint8, got {pixels.dtype}"
    assert pixels.ndim == 4, f"pixels must be [B, H, W, 3], got {tuple(pixels.shape)}"
    mean_C = torch.tensor(input.mean, device=pixels.device)
    std_C = torch.tensor(input.std, device=pixels.device)
    x_BHWC = (pixels.float() / 255 - mean_C) / std_C
    return x_BHWC.permute(0, 3, 1, 2).to(dtype).contiguous()


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """The pixels as a tensor, copied only where PyTorch cannot share them.

    It refuses negative strides (a flipped view) and warns of read-only memory, which Arrow and Ray hand out.
    """
    contiguous = np.ascontiguousarray(pixels)
    return torch.from_numpy(contiguous if contiguous.flags.writeable else contiguous.copy())
