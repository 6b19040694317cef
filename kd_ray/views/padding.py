"""Boxes that reach beyond the image: which pixels of the view have content, and the resampling of those alone.

A pixel of the view has content where its centre lies in the image, edges included; `kd_ray.views.geometry` agrees.
H, W: height and width of the image in pixels; h, w: of the view; 3: RGB.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from kd_ray.config.colors import Color
from kd_ray.views.color import Pixels, as_pixels
from kd_ray.views.resample import BoxPx

SLACK_PX = 2.0**-20  # rounding puts a centre on the edge up to 2**-37 px beyond it, in images of 2**16 px

Resampler = Callable[[Pixels, BoxPx, tuple[int, int]], Pixels]
"""From an image, a box and (height, width) to pixels; no centre of a pixel lies beyond the image."""


def resample_padded(
    image_HW3: Pixels, box: BoxPx, *, size_px: tuple[int, int], fill: Color, resampler: Resampler
) -> Pixels:
    """The box at `size_px`: what `resampler` gives for the pixels with content, and `fill` for the others."""
    left, top, right, bottom = box
    height, width = size_px
    rows, columns = content_of(box, image_size_px=(image_HW3.shape[0], image_HW3.shape[1]), size_px=size_px)
    if (len(rows), len(columns)) == size_px:
        return resampler(image_HW3, box, size_px)
    view_hw3 = np.empty((height, width, 3), dtype=np.uint8)
    view_hw3[...] = fill
    if rows and columns:
        step_x, step_y = (right - left) / width, (bottom - top) / height
        part = (
            left + columns.start * step_x,
            top + rows.start * step_y,
            left + columns.stop * step_x,
            top + rows.stop * step_y,
        )
        part = snapped(part, (image_HW3.shape[0], image_HW3.shape[1]))
        content_hw3 = resampler(image_HW3, part, (len(rows), len(columns)))
        view_hw3[rows.start : rows.stop, columns.start : columns.stop] = content_hw3
    return view_hw3


def content_of(box: BoxPx, *, image_size_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[range, range]:
    """The rows and the columns of a view of `size_px` that have content; sizes are (height, width)."""
    left, top, right, bottom = box
    return _inside(top, bottom, image_size_px[0], size_px[0]), _inside(left, right, image_size_px[1], size_px[1])


def _inside(start: float, stop: float, size: int, num_out: int) -> range:
    centers = np.arange(0.5, num_out) * ((stop - start) / num_out) + start
    found = np.flatnonzero((centers >= -SLACK_PX) & (centers <= size + SLACK_PX))
    return range(int(found[0]), int(found[-1]) + 1) if len(found) else range(0)


def snapped(box: BoxPx, image_size_px: tuple[int, int]) -> BoxPx:
    """The box, with edges that rounding has put just beside those of the image on them."""
    height, width = image_size_px
    left, top, right, bottom = box
    return _snapped(left, width), _snapped(top, height), _snapped(right, width), _snapped(bottom, height)


def _snapped(edge: float, side: int) -> float:
    if abs(edge) <= SLACK_PX:
        return 0.0
    return float(side) if abs(edge - side) <= SLACK_PX else edge


def with_border(image_HW3: Pixels, box: BoxPx) -> tuple[Pixels, BoxPx]:
    """The image with its edge pixels repeated so far that it holds the box, and the box in it; as given if it does.

    A box of pixels with content reaches beyond the image by at most half a pixel of the view.
    """
    height, width = image_HW3.shape[:2]
    left, top, right, bottom = box
    above, before = (max(math.ceil(-edge), 0) for edge in (top, left))
    below, after = max(math.ceil(bottom - height), 0), max(math.ceil(right - width), 0)
    if not (above or below or before or after):
        return image_HW3, box
    bordered_HW3 = cv2.copyMakeBorder(image_HW3, above, below, before, after, cv2.BORDER_REPLICATE)
    # the sum of an edge and the border may round beyond what has been added
    right, bottom = min(right + before, width + before + after), min(bottom + above, height + above + below)
    return as_pixels(bordered_HW3), (left + before, top + above, right, bottom)
