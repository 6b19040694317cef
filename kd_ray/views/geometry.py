"""Where things lie: between pixels of an image, of any rendering of a view of it, and of patch grids.

Pixel i covers [i, i + 1), so its centre is i + 0.5. A view is a chain of 3x3 projective matrices between unit squares,
in the order of its operations; a new operation is one arm of `_unit_matrices`. Sums are written out: BLAS orders and
fuses them by CPU, and the pixels of a mask must not depend on that.
H, W: height and width of an image or a grid; h, w: of a view; N, K: points; D: features; 2: x, y.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_ray.errors import RecipeError
from kd_ray.views.params import (
    CenterCropParams,
    Crop,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    OperationParams,
    PaddedCropParams,
    ResamplingParams,
    ResizePadParams,
    StepsParams,
    ViewParams,
)
from kd_ray.views.render import box_px
from kd_ray.views.resample import BoxPx
from kd_ray.views.steps import source_of
from kd_ray.views.warp import Projection, Row

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Point = tuple[float, float]
Mask = TypeVar("Mask", NDArray[np.uint8], NDArray[np.uint16])

IDENTITY: Projection = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FLIP: Projection = ((-1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
UNIT_CORNERS = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
# places are known to this part of a pixel: far above float64's rounding, far below what can be seen
STEPS_PER_PX = 2.0**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewGeometry:
    """One view of one image at one size; `box` is its crop, (left, top, right, bottom) in pixels of the image.

    The box may reach beyond the image, where the view has padding.
    `frames` map pixels of the image to pixels of the rendering as it was after each operation that cuts something off:
    what lies outside of any of them is not in the view. The last one cuts what the edges of the view cut.
    """

    image_size_px: tuple[int, int]
    size_px: tuple[int, int]
    box: BoxPx
    frames: tuple[Projection, ...]
    image_to_view: Projection
    view_to_image: Projection

    def to_view(self, points: Floats) -> Floats:
        """Points [..., 2] of the image as points of the view; NaN where a perspective shows them nowhere."""
        return np.stack(_transform(self.image_to_view, points[..., 0], points[..., 1]), axis=-1)

    def to_image(self, points: Floats) -> Floats:
        """Points [..., 2] of the view as points of the image; the inverse of `to_view`."""
        return np.stack(_transform(self.view_to_image, points[..., 0], points[..., 1]), axis=-1)

    def shows(self, points: Floats) -> Flags:
        """[...]: whether the points [..., 2] of the view lie in it, and on content of the image instead of padding."""
        x, y = points[..., 0], points[..., 1]
        return _within(x, y, self.size_px) & self._has_content(*_transform(self.view_to_image, x, y))

    def _has_content(self, x: Floats, y: Floats) -> Flags:
        """Of points of the image; not asked of the last frame, which is that of the view."""
        inside = _within(x, y, self.image_size_px)
        for frame in self.frames[:-1]:
            inside = inside & _within(*_transform(frame, x, y), self.size_px)
        return inside


def view_geometry(
    params: ViewParams,
    image_size_px: tuple[int, int],
    *,
    size_px: tuple[int, int],
    kept_px: tuple[int, int] | None = None,
) -> ViewGeometry:
    """Where `render` puts the pixels of an image of `image_size_px` in a view of `size_px` (both height, width).

    `kept_px` is the size of a view whose pixels are kept: the shape by which it was drawn, whatever the one it is
    resized to. What mixes another sample in is left out: the partner has its own params and geometry.
    """
    crop = params[0]
    assert isinstance(crop, Crop), crop
    drawn_px = kept_px or size_px
    box = box_px(crop, image_size_px=image_size_px, size_px=drawn_px)
    assert box[0] < box[2], f"nothing is left of the width: {box}"
    assert box[1] < box[3], f"nothing is left of the height: {box}"
    steps = [
        step
        for operation in params
        for step in _unit_matrices(operation, box, image_size_px=image_size_px, size_px=drawn_px)
    ]
    return chained_geometry(steps, image_size_px=image_size_px, size_px=size_px, box=box)


def chained_geometry(
    steps: Sequence[Projection], *, image_size_px: tuple[int, int], size_px: tuple[int, int], box: BoxPx
) -> ViewGeometry:
    """The geometry of `steps` one after the other, each from the unit square before it to the unit square after it."""
    matrix, to_px = _scale(1 / image_size_px[1], 1 / image_size_px[0]), _scale(size_px[1], size_px[0])
    frames: list[Projection] = []
    for step in steps:
        matrix = _compose(step, matrix)
        if not _keeps_the_square(step):
            frames.append(_compose(to_px, matrix))
    image_to_view = _compose(to_px, matrix)
    return ViewGeometry(
        image_size_px=image_size_px,
        size_px=size_px,
        box=box,
        frames=tuple(frames),
        image_to_view=image_to_view,
        view_to_image=_inverse(image_to_view),
    )


# Patch grids: what a model gives for patches of one rendering, at the patches of another.


def patch_centers(size_px: tuple[int, int], patch_px: int) -> Floats:
    """[rows, cols, 2]: the centres of square patches in a view of `size_px` (height, width), in its pixels.

    Raises:
        RecipeError: `patch_px` does not divide the size.
    """
    rows, cols = _grid_size(size_px, patch_px)
    x, y = np.meshgrid((np.arange(cols) + 0.5) * patch_px, (np.arange(rows) + 0.5) * patch_px)
    return np.stack([x, y], axis=-1)


def grid_map(
    from_geometry: ViewGeometry, from_patch_px: int, *, to_geometry: ViewGeometry, to_patch_px: int
) -> tuple[Floats, Flags]:
    """Where in one rendering's patch grid the centres of another rendering's patches lie.

    Returns `coords` [rows, cols, 2] and `valid` [rows, cols] for the grid of `to_geometry`, to take values from the
    grid of `from_geometry`. Coordinates count cells: i is the centre of cell i, -0.5 the outer edge of the first.
    `valid` is false, and coordinates are 0, where one of the two does not show the point or shows padding there. The
    image may have another size in each (one decoded at a smaller scale).

    Raises:
        RecipeError: a patch does not divide the size of its view.
    """
    _grid_size(from_geometry.size_px, from_patch_px)
    centers = patch_centers(to_geometry.size_px, to_patch_px)
    (from_height, from_width), (to_height, to_width) = from_geometry.image_size_px, to_geometry.image_size_px
    image_points = to_geometry.to_image(centers) * (from_width / to_width, from_height / to_height)
    points = from_geometry.to_view(image_points)
    valid = to_geometry.shows(centers) & from_geometry.shows(points)
    return np.where(valid[..., None], points / from_patch_px - 0.5, 0.0), valid


def normalized_coords(coords: Floats, grid_size: tuple[int, int]) -> Floats:
    """Coordinates [..., 2] of a grid of (rows, cols) as torch's `grid_sample(align_corners=False)` takes them.

    There -1 and 1 are the outer edges of the first and the last cell.
    """
    rows, cols = grid_size
    return (2.0 * coords + 1.0) / (cols, rows) - 1.0


def sample_grid(values_HWD: NDArray[np.floating[Any]], coords: Floats) -> NDArray[np.floating[Any]]:
    """[rows, cols, D]: bilinear between the cells of `values_HWD` at `coords` [rows, cols, 2] of `grid_map`.

    Beyond the outermost centres the nearest cells count (torch's `padding_mode="border"`). float16 becomes float32;
    other types stay.
    """
    dtype = np.result_type(values_HWD.dtype, np.float32)
    left, right, x_share = _neighbours(coords[..., 0], values_HWD.shape[1])
    above, below, y_share = _neighbours(coords[..., 1], values_HWD.shape[0])
    x_share, y_share = x_share[..., None].astype(dtype), y_share[..., None].astype(dtype)
    upper = values_HWD[above, left] * (1 - x_share) + values_HWD[above, right] * x_share
    lower = values_HWD[below, left] * (1 - x_share) + values_HWD[below, right] * x_share
    sampled: NDArray[np.floating[Any]] = upper * (1 - y_share) + lower * y_share
    return sampled


def _neighbours(places: Floats, num_cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    places = np.clip(places, 0.0, num_cells - 1.0)
    first = np.floor(places).astype(np.intp)
    return first, np.minimum(first + 1, num_cells - 1), places - first


def _grid_size(size_px: tuple[int, int], patch_px: int) -> tuple[int, int]:
    assert patch_px > 0, patch_px
    if any(side % patch_px for side in size_px):
        smaller, larger = ([(side + more) // patch_px * patch_px for side in size_px] for more in (0, patch_px - 1))
        sizes = [f"{height}x{width}" for height, width in (smaller, larger) if height and width]
        raise RecipeError(
            f"patches of {patch_px} px do not divide a view of {size_px[0]}x{size_px[1]} px (height x width). "
            f"Give multiples of {patch_px}, for instance {' or '.join(sizes)}, or another patch size."
        )
    return size_px[0] // patch_px, size_px[1] // patch_px


# Annotations: masks, boxes and polygons of the image, as the view has them.


class BoxesInView(NamedTuple):
    """Boxes after the view has cut them: `corners` [N, 4] (left, top, right, bottom) in pixels of the view.

    `kept` [N]; corners of a box that is not kept are 0. `visible_fraction` [N]: the share of its area in the image.
    """

    corners: Floats
    kept: Flags
    visible_fraction: Floats


def mask_in_view(
    mask_HW: Mask,
    params: ViewParams,
    *,
    size_px: tuple[int, int],
    kept_px: tuple[int, int] | None = None,
    fill: int = 255,
) -> Mask:
    """[h, w]: the class at the centre of each pixel of the view; `fill` where the image has no content.

    Every value is one of the mask's or `fill`. A centre on the edge between two pixels takes the right or lower one.
    """
    height, width = mask_HW.shape
    return sample_mask(mask_HW, view_geometry(params, (height, width), size_px=size_px, kept_px=kept_px), fill=fill)


def sample_mask(mask_HW: Mask, geometry: ViewGeometry, *, fill: int) -> Mask:
    """`mask_in_view` for a geometry at hand; the mask has the size of its image."""
    (image_height, image_width), (height, width) = geometry.image_size_px, geometry.size_px
    assert mask_HW.shape == (image_height, image_width), mask_HW.shape
    # one row and one column, which become [h, w] only where x and y mix: at 518x518 the places take 0.07 ms, not 9
    x_1w, y_h1 = np.arange(0.5, width)[None, :], np.arange(0.5, height)[:, None]
    x, y = _transform(geometry.view_to_image, x_1w, y_h1)
    sampled = mask_HW[_pixels_at(y, image_height), _pixels_at(x, image_width)]
    content = geometry._has_content(x, y)
    if not content.all():
        sampled[~np.broadcast_to(content, sampled.shape)] = fill
    return sampled


def boxes_in_view(corners: Floats, geometry: ViewGeometry, *, min_visible_fraction: float = 0.0) -> BoxesInView:
    """Boxes [N, 4] (left, top, right, bottom) in fractions of the upright image, cut at the edges of the view.

    Kept are those of which more than `min_visible_fraction` of the area is visible. Where a view turns boxes, the
    corners are of the smallest upright box around the visible part.
    """
    in_view, visible = np.zeros((len(corners), 4)), np.zeros(len(corners))
    for index, (left, top, right, bottom) in enumerate(corners.tolist()):
        outline = _in_pixels([(left, top), (right, top), (right, bottom), (left, bottom)], geometry)
        part = _visible_part(outline, geometry)
        whole_area = abs(_area(outline))
        visible[index] = min(abs(_area(part)) / whole_area, 1.0) if whole_area else 0.0
        if visible[index] > min_visible_fraction:
            points = _to_view_points(part, geometry)
            in_view[index] = [*points.min(axis=0), *points.max(axis=0)]
    return BoxesInView(in_view, visible > min_visible_fraction, visible)


def polygons_in_view(polygons: Sequence[Floats | Sequence[float]], geometry: ViewGeometry) -> list[Floats]:
    """Polygons in fractions of the upright image, cut at the edges of the view, in its pixels [K, 2]; exact.

    They are given as [K, 2], or as a corpus stores them: x and y in turn. There is one for each, [0, 2] where nothing
    is visible. Vertices keep their order, so a flip reverses their sense of rotation. Parts of a polygon that is not
    convex stay joined along the edge of the view, by a path without area (Sutherland and Hodgman 1974).
    """
    return [_polygon_in_view(polygon, geometry) for polygon in polygons]


def _polygon_in_view(polygon: Floats | Sequence[float], geometry: ViewGeometry) -> Floats:
    part = _visible_part(_in_pixels(np.reshape(polygon, (-1, 2)).tolist(), geometry), geometry)
    return _to_view_points(part, geometry) if _area(part) else np.zeros((0, 2))


def _in_pixels(fractions: Sequence[Sequence[float]], geometry: ViewGeometry) -> list[Point]:
    height, width = geometry.image_size_px
    return [(x * width, y * height) for x, y in fractions]


def _to_view_points(points: list[Point], geometry: ViewGeometry) -> Floats:
    """[K, 2]; a cut vertex lies on the edge only up to rounding, and is put onto it."""
    height, width = geometry.size_px
    return np.clip(geometry.to_view(np.array(points)), 0.0, (width, height))


def _visible_part(points: list[Point], geometry: ViewGeometry) -> list[Point]:
    """What of a polygon in the image the view shows: cut by every edge of the image and of each frame.

    Edges are straight lines in the image also under a perspective, so no point needs to be mapped that is not visible.
    """
    frames = [(IDENTITY, geometry.image_size_px), *((frame, geometry.size_px) for frame in geometry.frames)]
    for (x_row, y_row, weight_row), (height, width) in frames:
        for line in (x_row, _beyond(x_row, weight_row, width), y_row, _beyond(y_row, weight_row, height)):
            points = _cut(points, line)
    return points


def _beyond(row: Row, weight_row: Row, limit: float) -> Row:
    """The line that is positive where a coordinate is below `limit`."""
    return (
        limit * weight_row[0] - row[0],
        limit * weight_row[1] - row[1],
        limit * weight_row[2] - row[2],
    )


def _cut(points: list[Point], line: Row) -> list[Point]:
    """The part of a polygon where a x + b y + c >= 0."""
    a, b, c = line
    distances = [a * x + b * y + c for x, y in points]
    kept: list[Point] = []
    for index, ((x, y), distance) in enumerate(zip(points, distances, strict=True)):
        (last_x, last_y), last = points[index - 1], distances[index - 1]
        if (distance < 0) != (last < 0):
            share = last / (last - distance)
            kept.append((last_x + share * (x - last_x), last_y + share * (y - last_y)))
        if distance >= 0:
            kept.append((x, y))
    return kept


def _area(points: list[Point]) -> float:
    """Signed; around the first vertex, so that a small polygon far from the origin loses no digits."""
    if len(points) < 3:
        return 0.0
    (x0, y0), *others = points
    shifted = [(x - x0, y - y0) for x, y in others]
    return sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairwise(shifted)) / 2


def _pixels_at(places: Floats, num_pixels: int) -> NDArray[np.intp]:
    """The pixels that cover `places`; on the edge between two, the right or lower one.

    Places are first put on a grid: else rounding decides on the edge, and 856 of the 14,161 pairs of widths up to 119
    give another mask when flipped.
    """
    inside = np.clip(np.nan_to_num(places), 0.0, num_pixels)
    on_grid = np.rint(inside * STEPS_PER_PX) / STEPS_PER_PX
    return np.minimum(np.floor(on_grid), num_pixels - 1).astype(np.intp)


# Matrices: rows for x, y and weight, applied to (x, y, 1).


def _unit_matrices(
    operation: OperationParams, box: BoxPx, *, image_size_px: tuple[int, int], size_px: tuple[int, int]
) -> tuple[Projection, ...]:
    """From the unit square before an operation to the one after it, in steps; none where it moves nothing."""
    match operation:
        case CropParams() | CenterCropParams() | PaddedCropParams() | ResizePadParams():
            left, top, right, bottom = box
            height, width = image_size_px
            x_row = (width / (right - left), 0.0, -left / (right - left))
            y_row = (0.0, height / (bottom - top), -top / (bottom - top))
            return ((x_row, y_row, (0.0, 0.0, 1.0)),)
        case FlipParams(flipped=True):
            return (FLIP,)
        case StepsParams():
            found = (source_of(step, size_px=size_px) for step in operation.steps)
            return tuple(_inverse(matrix) for matrix in found if matrix is not None)
        case FlipParams() | JitterParams() | MixParams() | ResamplingParams():
            return ()


def _scale(x: float, y: float) -> Projection:
    return ((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0))


def _keeps_the_square(matrix: Projection) -> bool:
    """Whether all of the unit square comes to lie on all of it, as in a flip: then nothing is cut off."""
    x, y = _transform(matrix, np.array([x for x, _ in UNIT_CORNERS]), np.array([y for _, y in UNIT_CORNERS]))
    return set(zip(x.tolist(), y.tolist(), strict=True)) == set(UNIT_CORNERS)


def _transform(matrix: Projection, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The points (x, y) after `matrix`, each of the shape it needs; NaN on and behind the horizon."""
    x_row, y_row, weight_row = matrix
    new_x, new_y = _linear(x_row, x, y), _linear(y_row, x, y)
    if weight_row == (0.0, 0.0, 1.0):
        return new_x, new_y
    weight = _linear(weight_row, x, y)
    weight = np.where(weight > 0, weight, np.nan)
    return new_x / weight, new_y / weight


def _linear(row: Row, x: Floats, y: Floats) -> Floats:
    """a x + b y + c. Terms with a zero factor are left out: the same bits, and a row needs no column to be mapped."""
    a, b, c = row
    if b == 0.0:
        return a * x + c
    if a == 0.0:
        return b * y + c
    return a * x + b * y + c


def _within(x: Floats, y: Floats, size_px: tuple[int, int]) -> Flags:
    """Edges belong to the inside, also where rounding has put a point just beyond; NaN does not."""
    height, width = size_px
    slack = 1.0 / STEPS_PER_PX
    inside: Flags = (x >= -slack) & (x <= width + slack) & (y >= -slack) & (y <= height + slack)
    return inside


def _compose(last: Projection, first: Projection) -> Projection:
    def row(of: Row) -> Row:
        a, b, c = of
        (x0, x1, x2), (y0, y1, y2), (w0, w1, w2) = first
        return a * x0 + b * y0 + c * w0, a * x1 + b * y1 + c * w1, a * x2 + b * y2 + c * w2

    return row(last[0]), row(last[1]), row(last[2])


def _inverse(matrix: Projection) -> Projection:
    """By cofactors; the sign of the weight is kept, so that what was in front of the horizon stays there."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    assert determinant != 0.0, f"a view without area: {matrix}"
    return (
        ((e * i - f * h) / determinant, (c * h - b * i) / determinant, (b * f - c * e) / determinant),
        ((f * g - d * i) / determinant, (a * i - c * g) / determinant, (c * d - a * f) / determinant),
        ((d * h - e * g) / determinant, (b * g - a * h) / determinant, (a * e - b * d) / determinant),
    )
