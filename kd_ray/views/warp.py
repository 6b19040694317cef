"""Affine and perspective warps of uint8 views, the same on every CPU. H, W: height and width in pixels; 3: RGB.

Points are counted from the upper left corner of the view, (0.5, 0.5) being the middle of its first pixel, as in Pillow
and torchvision. They are found here, in float64 and by operations that IEEE 754 rounds exactly, and rounded to 1/32 px;
`cv2.remap` then samples them in whole numbers. OpenCV 5's own `warpAffine` gives other pixels with and without its
optimised code paths.
"""

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_ray.config.operations import Interpolation
from kd_ray.views.color import Pixels, as_pixels

Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel at (x, y) of the result is taken from (a x + b y + c, d x + e y + f)."""
Row = tuple[float, float, float]
Projection = tuple[Row, Row, Row]
"""A 3x3 matrix on (x, y, 1)."""
FloatHW = NDArray[np.float64]

GRID = 2.0**30  # sine and cosine may differ by 2**-53 between C libraries: rounded to 2**-30, they are the same
PARTS = 32  # of a pixel, and what OpenCV's fixed-point maps hold
FAR_PX = 2.0**14  # a point as far outside as this is as good as any farther


def rotation(width: int, height: int, degrees: float) -> Matrix:
    """Counterclockwise around the middle, as Pillow's `rotate`."""
    return affine(width, height, degrees=-degrees, shift=(0.0, 0.0), scale=1.0, shear=(0.0, 0.0))


def affine(
    width: int, height: int, *, degrees: float, shift: tuple[float, float], scale: float, shear: tuple[float, float]
) -> Matrix:
    """The inverse of torchvision's affine map: clockwise by `degrees`, scaled and sheared (degrees) around the middle.

    Then moved by `shift`, in shares of width and height. torchvision: rotation @ scale @ shear of y @ shear of x.
    """
    cos, sin = _on_grid(math.cos(math.radians(degrees))), _on_grid(math.sin(math.radians(degrees)))
    tan_x, tan_y = (_on_grid(math.tan(math.radians(each))) for each in shear)
    a, b = ((1.0 + tan_x * tan_y) * cos - tan_x * sin) / scale, ((1.0 + tan_x * tan_y) * sin + tan_x * cos) / scale
    d, e = (tan_y * cos - sin) / scale, (tan_y * sin + cos) / scale
    center_x, center_y = width / 2, height / 2
    from_x, from_y = center_x + shift[0] * width, center_y + shift[1] * height
    return a, b, center_x - a * from_x - b * from_y, d, e, center_y - d * from_x - e * from_y


def warp_affine(view_HW3: Pixels, matrix: Matrix, *, interpolation: Interpolation, fill: tuple[float, ...]) -> Pixels:
    """The view seen through `matrix`; `fill` (red, green, blue) where that leads outside."""
    a, b, c, d, e, f = matrix
    is_shift = (a, b, d, e) == (1.0, 0.0, 0.0, 1.0) and _is_same_for_all(c) and _is_same_for_all(f)
    if interpolation == "nearest" and is_shift:
        return _shifted(view_HW3, c, f, fill=fill)
    x_1W, y_H1 = _middles(view_HW3)
    # one row or column says all where the other axis has no part in it
    x_HW = a * x_1W + (b * y_H1 + c if b else c)
    y_HW = (d * x_1W if d else 0.0) + (e * y_H1 + f)
    return _sample(view_HW3, x_HW, y_HW, interpolation=interpolation, fill=fill)


def _shifted(view_HW3: Pixels, x: float, y: float, *, fill: tuple[float, ...]) -> Pixels:
    """What sampling the nearest pixels gives where all are `x` and `y` pixels away: a copy, in a tenth of the time."""
    height, width = view_HW3.shape[:2]
    (right, to_x), (down, to_y) = (_overlap(shift, size) for shift, size in ((x, width), (y, height)))
    color = tuple(np.clip(np.rint(fill), 0, 255).tolist())
    if to_x.start == to_x.stop or to_y.start == to_y.stop:
        return np.full_like(view_HW3, color)
    around = (to_y.start, height - to_y.stop, to_x.start, width - to_x.stop)
    # NumPy takes 0.2 ms to fill a view with a colour
    return as_pixels(cv2.copyMakeBorder(view_HW3[down, right], *around, cv2.BORDER_CONSTANT, value=color))


def _is_same_for_all(shift: float) -> bool:
    """Whether it leads all pixels equally far: near half a pixel that depends on how their own place is rounded."""
    middle = 0.5 + shift
    return abs(middle - round(middle)) > 1.0 / GRID


def _overlap(shift: float, size: int) -> tuple[slice, slice]:
    """Which of `size` pixels are seen, and where: the pixel that holds the middle of the first one, `shift` on."""
    by = math.floor(min(max(0.5 + shift, -FAR_PX), FAR_PX))
    seen = slice(min(max(by, 0), size), max(min(size + by, size), 0))
    return seen, slice(seen.start - by, seen.stop - by) if seen.start < seen.stop else slice(0, 0)


def warp_perspective(
    view_HW3: Pixels, corners: tuple[float, ...], *, interpolation: Interpolation, fill: tuple[float, ...]
) -> Pixels:
    """The view drawn into the quadrilateral of four `corners`, clockwise from the upper left: x, y in shares of 1.

    From the adjugate of Heckbert's map of a square to a quadrilateral (1989, "Fundamentals of Texture Mapping and Image
    Warping", 2.2.3), which needs no linear solver.
    """
    height, width = view_HW3.shape[:2]
    (a, b, c), (d, e, f), (g, h, i) = quadrilateral_to_square(corners)
    x_1W, y_H1 = _middles(view_HW3)
    u_1W, v_H1 = x_1W / width, y_H1 / height
    depth_HW = g * u_1W + (h * v_H1 + i)
    is_behind_HW = depth_HW <= 0.0  # the viewer, where a corner is pushed in too far: outside
    depth_HW[is_behind_HW] = 1.0
    x_HW = (a * u_1W + (b * v_H1 + c)) / depth_HW * width
    y_HW = (d * u_1W + (e * v_H1 + f)) / depth_HW * height
    x_HW[is_behind_HW] = -FAR_PX
    return _sample(view_HW3, x_HW, y_HW, interpolation=interpolation, fill=fill)


def quadrilateral_to_square(corners: tuple[float, ...]) -> Projection:
    """From places in the view to those before it was drawn into the quadrilateral, in shares; a multiple of the map."""
    x0, y0, x1, y1, x2, y2, x3, y3 = corners
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    determinant = dx1 * dy2 - dx2 * dy1 or 2.0**-60  # never 0 in a draw: three corners exactly in line
    g, h = (dx3 * dy2 - dx2 * dy3) / determinant, (dx1 * dy3 - dx3 * dy1) / determinant
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    return (
        (e - f * h, c * h - b, b * f - c * e),
        (f * g - d, a - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )


def _middles(view_HW3: Pixels) -> tuple[FloatHW, FloatHW]:
    height, width = view_HW3.shape[:2]
    assert max(height, width) < FAR_PX, view_HW3.shape
    return np.arange(width, dtype=np.float64)[None, :] + 0.5, np.arange(height, dtype=np.float64)[:, None] + 0.5


def _sample(
    view_HW3: Pixels, x_HW: FloatHW, y_HW: FloatHW, *, interpolation: Interpolation, fill: tuple[float, ...]
) -> Pixels:
    """The view at points in pixels, which lie in the pixel that holds them or between four or sixteen."""
    where_2HW = np.empty((2, *view_HW3.shape[:2]), dtype=np.int16)
    if interpolation == "nearest":
        for axis, at_HW in enumerate((x_HW, y_HW)):
            where_2HW[axis] = np.floor(np.clip(at_HW, -FAR_PX, FAR_PX, out=at_HW), out=at_HW)
        return _remap(view_HW3, where_2HW, None, cv2.INTER_NEAREST, fill)
    parts = []
    for axis, at_HW in enumerate((x_HW, y_HW)):
        steps_HW = np.rint(np.clip(at_HW, -FAR_PX, FAR_PX) * PARTS - PARTS / 2).astype(np.int32)
        where_2HW[axis] = steps_HW >> 5
        parts.append(steps_HW & (PARTS - 1))
    parts_HW = (parts[1] * PARTS + parts[0]).astype(np.uint16)
    flag = cv2.INTER_LINEAR if interpolation == "bilinear" else cv2.INTER_CUBIC
    return _remap(view_HW3, where_2HW, parts_HW, flag, fill)


def _remap(
    view_HW3: Pixels,
    where_2HW: NDArray[np.int16],
    parts_HW: NDArray[np.uint16] | None,
    flag: int,
    fill: tuple[float, ...],
) -> Pixels:
    return as_pixels(
        cv2.remap(
            view_HW3,
            cast(NDArray[np.int16], cv2.merge(list(where_2HW))),  # 0.02 ms less than writing every second number
            cast(NDArray[np.uint16], parts_HW),  # OpenCV's annotations do not know of maps without parts
            flag,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
    )


def _on_grid(value: float) -> float:
    return round(value * GRID) / GRID
