"""Going on with fewer views at once where memory does not hold as many as were asked for."""

import gc
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kd_ray.errors import ExtractionError

Result = TypeVar("Result")
# what PyTorch's allocator on the CPU, cuBLAS and cuDNN say, whose errors have no class of their own
SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch says that memory is used up, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


class Slices:
    """`size` views at once; halved where memory does not hold them, for as long as this object lives."""

    def __init__(self, size: int) -> None:
        self.size = size

    def through(self, forward: Callable[[NDArray[np.uint8]], Result], pixels_BHWC: NDArray[np.uint8]) -> list[Result]:
        """What `forward` gives for each slice, in order.

        Raises:
            ExtractionError: memory does not hold a single view.
        """
        found: list[Result] = []
        start = 0
        while start < len(pixels_BHWC):
            part = pixels_BHWC[start : start + self.size]
            result = _unless_out_of_memory(forward, part)
            if result is None:
                self._halve(len(part))
                continue
            found.append(result)
            start += len(part)
        return found

    def _halve(self, tried: int) -> None:
        """Here no frame of the failed forward is alive any more, so that its tensors can be given back."""
        if tried == 1:
            raise ExtractionError(
                "memory does not hold a single view in this teacher. Give its workers more memory or a larger "
                "accelerator (teacher.resources), a narrower precision, or a smaller input.size_px."
            )
        self.size = tried // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _unless_out_of_memory(
    forward: Callable[[NDArray[np.uint8]], Result], pixels_BHWC: NDArray[np.uint8]
) -> Result | None:
    try:
        return forward(pixels_BHWC)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None
