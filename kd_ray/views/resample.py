"""Resizing of a box with an antialiasing filter: Pillow's kernels in whole numbers, in a third of Pillow's time.

The triangle and the cubic are as wide as one pixel or one step of the output, whichever is larger, and centred on the
exact places of the output's pixels in the box, so that every size sees the same content. Each row is filtered first,
then each column, with uint8 between them. Pixels are summed as the product of a sparse and a dense matrix of whole
numbers in uint16: exact in any order and on any CPU, as no sum leaves that type.
H, W: height and width of the box in the image; h, w: of the view; N, n: pixels of one axis of the two; A: outputs of
both axes; T: taps of the filter; X: anything; C: channels; 3: RGB; 4: RGB and a channel without meaning.
"""

import math
import threading
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import _sparsetools

from kd_ray.views.color import Pixels, as_pixels

BoxPx = tuple[float, float, float, float]
Kernel = Literal["bilinear", "bicubic"]

MAX_SHRINK = 16.0  # weights are rounded to 1/256 or 1/128, which is coarse once there are many of them

# The cubic's weights of one pixel are -1/8 to 9/8 when added up by sign, a little more for their rounding, so its sums
# need one bit more; they are carried `OFFSET` levels higher, above zero.
BITS = {"bilinear": 8, "bicubic": 7}
OFFSET = {"bilinear": 0, "bicubic": 64}
NUM_SCRATCH = 1 << 19  # of uint16: what boxes of up to 360x360 need at once, and 2 MiB a thread


class _Scratch(threading.local):
    """Memory that a thread sums in, view after view.

    Taken anew for each view, glibc may give it back to the system each time: 240 page faults a view, 0.5 ms.
    """

    def __init__(self) -> None:
        self.pixels = np.empty(NUM_SCRATCH, dtype=np.uint16)
        self.sums = np.empty(NUM_SCRATCH, dtype=np.uint16)


_scratch = _Scratch()


class _Axis(NamedTuple):
    """Height or width of a box: from `start` on, `num_out` steps of `step` pixels each, in an image of `size`."""

    start: float
    step: float
    size: int
    num_out: int
    reach: float  # of the filter, to both sides
    num_taps: int


class _Weights(NamedTuple):
    """The outputs' weights of the `num_in` pixels from `first` on: the rows of a sparse matrix (CSR)."""

    first: int
    num_in: int
    num_out: int
    values: NDArray[np.uint16]
    columns: NDArray[np.int32]
    row_starts: NDArray[np.int32]


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
    rows, columns = _weights(
        _axis(top, bottom, size=height, num_out=size_px[0], kernel=kernel),
        _axis(left, right, size=width, num_out=size_px[1], kernel=kernel),
        kernel=kernel,
    )
    part_HW3 = image_HW3[rows.first : rows.first + rows.num_in, columns.first : columns.first + columns.num_in]
    part_WH4 = cv2.transpose(cv2.cvtColor(part_HW3, cv2.COLOR_RGB2RGBA))  # 20 us, a third of three channels
    part_wH4 = _sums(columns, as_pixels(part_WH4), kernel=kernel)
    part_Hw3 = cv2.cvtColor(cv2.transpose(part_wH4), cv2.COLOR_RGBA2RGB)
    return _sums(rows, as_pixels(part_Hw3), kernel=kernel)


def _sums(weights: _Weights, image_NXC: Pixels, *, kernel: Kernel) -> Pixels:
    """Weighted sums of rows, rounded and clamped to uint8 [n, X, C], over as many columns at once as scratch holds."""
    bits, offset = BITS[kernel], OFFSET[kernel]
    num_in, num_out = weights.num_in, weights.num_out
    image_NX = image_NXC.reshape(num_in, -1)
    summed_nX = np.empty((num_out, image_NX.shape[1]), dtype=np.uint8)
    width = max(1, NUM_SCRATCH // max(num_in, num_out))
    for start in range(0, image_NX.shape[1], width):
        part_NX = image_NX[:, start : start + width]
        pixels_NX = _buffer(_scratch.pixels, num_in, part_NX.shape[1])
        sums_nX = _buffer(_scratch.sums, num_out, part_NX.shape[1])
        pixels_NX[...] = part_NX
        sums_nX.fill((offset << bits) + (1 << bits >> 1))  # modulo 2**16, as the sums of negative weights are
        # what `csr_array @ dense` calls, without its checks and its new arrays (0.05 ms a view)
        _sparsetools.csr_matvecs(
            num_out,
            num_in,
            part_NX.shape[1],
            weights.row_starts,
            weights.columns,
            weights.values,
            pixels_NX.ravel(),
            sums_nX.ravel(),
        )
        sums_nX >>= bits
        if offset:
            np.clip(sums_nX, offset, offset + 255, out=sums_nX)
            sums_nX -= np.uint16(offset)
        np.copyto(summed_nX[:, start : start + width], sums_nX, casting="unsafe")
    return summed_nX.reshape(num_out, *image_NXC.shape[1:])


def _buffer(scratch: NDArray[np.uint16], height: int, width: int) -> NDArray[np.uint16]:
    """[height, width], uninitialised: of scratch where that suffices."""
    count = height * width
    return (scratch[:count] if count <= len(scratch) else np.empty(count, dtype=np.uint16)).reshape(height, width)


def _axis(start: float, stop: float, *, size: int, num_out: int, kernel: Kernel) -> _Axis:
    step = (stop - start) / num_out
    reach = max(step, 1.0) * (1.0 if kernel == "bilinear" else 2.0)
    return _Axis(start, step, size, num_out, reach, min(math.ceil(2.0 * reach), size))


def _weights(rows: _Axis, columns: _Axis, *, kernel: Kernel) -> list[_Weights]:
    """The weights of both axes, at one go: NumPy's calls cost more than their few hundred numbers.

    The weights of one output are whole numbers that add up to 1 << BITS: not each is rounded, but their running sum.
    In float64 elementwise, or strictly one after the other, so that every CPU rounds alike.
    """
    num_rows = rows.num_out
    axes = ((rows, slice(num_rows)), (columns, slice(num_rows, num_rows + columns.num_out)))
    center_A, first_A, scale_A = np.empty((3, num_rows + columns.num_out))
    for axis, own in axes:
        center_A[own] = np.arange(0.5, axis.num_out) * axis.step + axis.start
        np.subtract(center_A[own], axis.reach - 0.5, out=first_A[own])
        scale_A[own] = max(axis.step, 1.0)
    np.floor(first_A, out=first_A)
    np.maximum(first_A, 0.0, out=first_A)
    for axis, own in axes:
        np.minimum(first_A[own], float(axis.size - axis.num_taps), out=first_A[own])
    distance_TA = np.arange(float(max(rows.num_taps, columns.num_taps)))[:, None] + (first_A - center_A + 0.5)
    distance_TA /= scale_A
    np.abs(distance_TA, out=distance_TA)
    running_TA = _triangle(distance_TA) if kernel == "bilinear" else _cubic(distance_TA)
    np.cumsum(running_TA, axis=0, out=running_TA)
    for axis, own in axes:
        running_TA[:, own] *= (1 << BITS[kernel]) / running_TA[axis.num_taps - 1, own]
    weights_TA = np.rint(running_TA, out=running_TA).astype(np.int16)
    weights_TA[1:] -= running_TA[:-1].astype(np.int16)
    first_pixel_A = first_A.astype(np.int32)
    return [_sparse(first_pixel_A[own], weights_TA[: axis.num_taps, own].T) for axis, own in axes]


def _sparse(first_n: NDArray[np.int32], weights_nT: NDArray[np.int16]) -> _Weights:
    """Each output's weights of the pixels from its first one on, as a matrix."""
    num_out, num_taps = weights_nT.shape
    first = int(first_n[0])
    columns_nT = (first_n - first_n[0])[:, None] + np.arange(num_taps, dtype=np.int32)
    row_starts: NDArray[np.int32] = np.arange(0, num_out * num_taps + 1, num_taps, dtype=np.int32)
    num_in = int(first_n[-1]) - first + num_taps
    return _Weights(first, num_in, num_out, weights_nT.ravel().view(np.uint16), columns_nT.ravel(), row_starts)


def _triangle(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution (1981) with a = -1/2, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
