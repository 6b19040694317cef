"""Resizing of a box with an antialiasing filter: Pillow's kernels in whole numbers, in half of Pillow's time.

The triangle and the cubic are as wide as one pixel or one step of the output, whichever is larger, and centred on the
exact places of the output's pixels in the box, so that every size sees the same content. Each row is filtered first,
then each column, with uint8 between them. Pixels are summed as the product of a sparse and a dense matrix of whole
numbers in uint16: exact in any order and on any CPU, as no sum leaves that type. Boxes of 480x360, of 273x265 on
average, to 224x224: 0.36 ms bilinear and 0.48 bicubic, where Pillow takes 0.75 and 1.13.
H, W: height and width of the image; h, w: of the view, all in pixels; T: taps of the filter; X: anything; 3: RGB.
"""

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from kd_ray.views.color import Pixels, as_pixels

BoxPx = tuple[float, float, float, float]
Kernel = Literal["bilinear", "bicubic"]

MAX_SHRINK = 16.0  # weights are rounded to 1/256 or 1/128, which is coarse once there are many of them

# The cubic's weights of one pixel are -1/8 to 9/8 when added up by sign, a little more for their rounding, so its sums
# need one bit more; they are carried `OFFSET` levels higher, above zero.
BITS = {"bilinear": 8, "bicubic": 7}
OFFSET = {"bilinear": 0, "bicubic": 64}


def can_resample(box: BoxPx, *, size_px: tuple[int, int]) -> bool:
    """Whether `resample` takes this box to this (height, width): at most `MAX_SHRINK` pixels for one, both ways."""
    left, top, right, bottom = box
    return bottom - top <= MAX_SHRINK * size_px[0] and right - left <= MAX_SHRINK * size_px[1]


def resample(image_HW3: Pixels, *, size_px: tuple[int, int], box: BoxPx, kernel: Kernel) -> Pixels:
    """The box (left, top, right, bottom; pixels of the image, not rounded) at `size_px` (height, width).

    Pillow's resize within rounding, and exactly where no pixel is to be interpolated: on photographs 0.02 (bilinear) or
    0.07 levels off on average, and 4 at most. Where the cubic's overshoots are cut, the order of the axes shows, too.
    """
    left, top, right, bottom = box
    height, width = image_HW3.shape[:2]
    first_row, rows_hH = _weights(top, bottom, height, size_px[0], kernel=kernel)
    first_column, columns_wW = _weights(left, right, width, size_px[1], kernel=kernel)
    part_HW3 = image_HW3[first_row : first_row + rows_hH.shape[1], first_column : first_column + columns_wW.shape[1]]
    part_wH3 = _sums(columns_wW, as_pixels(cv2.transpose(part_HW3)), kernel=kernel)
    return _sums(rows_hH, as_pixels(cv2.transpose(part_wH3)), kernel=kernel)


def _sums(weights_hH: csr_array, image_HX3: Pixels, *, kernel: Kernel) -> Pixels:
    """Weighted sums of rows, rounded and clamped to uint8 [h, X, 3]."""
    bits, offset = BITS[kernel], OFFSET[kernel]
    height, width = image_HX3.shape[:2]
    sums_hX: NDArray[np.uint16] = weights_hH @ image_HX3.astype(np.uint16).reshape(height, width * 3)
    sums_hX += np.uint16((offset << bits) + (1 << bits >> 1))  # modulo 2**16, as the sums of negative weights are
    sums_hX >>= bits
    if offset:
        np.clip(sums_hX, offset, offset + 255, out=sums_hX)
        sums_hX -= np.uint16(offset)
    return sums_hX.astype(np.uint8).reshape(-1, width, 3)


def _weights(start: float, stop: float, size: int, num_out: int, *, kernel: Kernel) -> tuple[int, csr_array]:
    """The first of `size` pixels that is needed, and the outputs' weights of the pixels from there on.

    The weights of one output are whole numbers that add up to 1 << BITS: not each is rounded, but their running sum.
    In float64 elementwise, or strictly one after the other, so that every CPU rounds alike.
    """
    step = (stop - start) / num_out
    scale = max(step, 1.0)
    reach = scale if kernel == "bilinear" else 2.0 * scale
    num_taps = min(math.ceil(2.0 * reach), size)
    center_h = np.arange(0.5, num_out) * step + start
    first_h = np.floor(center_h - (reach - 0.5))
    np.clip(first_h, 0.0, float(size - num_taps), out=first_h)
    tap_T = np.arange(float(num_taps))
    distance_hT = (first_h - center_h + 0.5)[:, None] + tap_T
    distance_hT /= scale
    np.abs(distance_hT, out=distance_hT)
    running_hT = np.cumsum(_triangle(distance_hT) if kernel == "bilinear" else _cubic(distance_hT), axis=1)
    running_hT *= (1 << BITS[kernel]) / running_hT[:, -1:]
    rounded_hT = np.rint(running_hT, out=running_hT).astype(np.int16)
    weights_hT = rounded_hT.copy()
    weights_hT[:, 1:] -= rounded_hT[:, :-1]
    first, end = int(first_h[0]), int(first_h[-1]) + num_taps
    columns_hT = (first_h - first).astype(np.int32)[:, None] + tap_T.astype(np.int32)
    row_starts = np.arange(0, num_out * num_taps + 1, num_taps, dtype=np.int32)
    matrix = (weights_hT.ravel().view(np.uint16), columns_hT.ravel(), row_starts)
    return first, csr_array(matrix, shape=(num_out, end - first))


def _triangle(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution (1981) with a = -1/2, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
