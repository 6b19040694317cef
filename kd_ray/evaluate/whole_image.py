"""The whole image of a sample, small, with the numbered boxes of its views drawn in. H, W: pixels; 3: RGB."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WHOLE_PX = 260  # the longest side
MIN_SIDE_PX = 48
FONT_PX = 13
BADGE_PADDING_PX = 3
LINE_PX = 2
# Okabe and Ito's colours, which the colour-blind tell apart, as far as they differ from black outlines.
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#bbbbbb")
DARK_COLORS = frozenset({"#0072b2"})

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the ends outside


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedBox:
    """A view's number and its box: left, top, right, bottom as fractions of the image."""

    number: int
    fractions: tuple[float, float, float, float]


def color_of(number: int) -> str:
    """The colour of a view's box and badge, as #rrggbb."""
    return COLORS[number % len(COLORS)]


def ink_on(color: str) -> str:
    """Black or white, whichever is read more easily on `color`."""
    return "white" if color in DARK_COLORS else "black"


@cache
def sheet_font() -> ImageFont.FreeTypeFont:
    """matplotlib's DejaVu Sans, which has Greek, Cyrillic and Arabic letters for file names."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), FONT_PX, layout_engine=ImageFont.Layout.BASIC)


def whole_with_boxes(image_HW3: NDArray[np.uint8], boxes: Sequence[NumberedBox]) -> NDArray[np.uint8]:
    """The image with its longest side at WHOLE_PX, or at the whole multiple below it where it is smaller than that.

    A side of less than MIN_SIDE_PX is filled up with white, so that numbers have room. Boxes that fall on the same
    pixels are drawn once, with all their numbers.
    """
    scaled = _scaled(image_HW3)
    size = max(scaled.width, MIN_SIDE_PX), max(scaled.height, MIN_SIDE_PX)
    picture = Image.new("RGB", size, "white")
    picture.paste(scaled)
    drawing = ImageDraw.Draw(picture)
    numbers: dict[Rectangle, list[int]] = {}
    for box in boxes:
        numbers.setdefault(_in_pixels(box, scaled.size), []).append(box.number)
    for rectangle, of_views in numbers.items():
        _outline(drawing, rectangle, color_of(of_views[0]))
    taken: list[Rectangle] = []
    for rectangle, of_views in numbers.items():
        taken.append(_badge(drawing, rectangle, of_views, taken=taken, size=picture.size))
    return np.asarray(picture)


def draw_badge(drawing: ImageDraw.ImageDraw, place: tuple[int, int], numbers: Sequence[int]) -> Rectangle:
    """The numbers of views on the colour of the first, with (left, top) at `place`; the rectangle that it covers."""
    color, text = color_of(numbers[0]), _text(numbers)
    width, height = badge_size(numbers)
    left, top = place
    drawing.rectangle((left, top, left + width - 1, top + height - 1), fill=color, outline="black")
    drawing.text((left + BADGE_PADDING_PX, top + height // 2), text, fill=ink_on(color), font=sheet_font(), anchor="lm")
    return left, top, left + width, top + height


def badge_size(numbers: Sequence[int]) -> tuple[int, int]:
    """(width, height) in pixels."""
    return round(sheet_font().getlength(_text(numbers))) + 2 * BADGE_PADDING_PX, FONT_PX + 2 * BADGE_PADDING_PX


def _text(numbers: Sequence[int]) -> str:
    return " ".join(str(number) for number in numbers)


def _scaled(image_HW3: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(image_HW3)
    longest = max(picture.size)
    if longest <= WHOLE_PX:
        factor = WHOLE_PX // longest
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    width, height = (max(round(side * WHOLE_PX / longest), 1) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def _in_pixels(box: NumberedBox, size: tuple[int, int]) -> Rectangle:
    left, top, right, bottom = (round(edge * size[i % 2]) for i, edge in enumerate(box.fractions))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _outline(drawing: ImageDraw.ImageDraw, rectangle: Rectangle, color: str) -> None:
    """In the colour, with black on both sides of it, so that it is seen on any image."""
    left, top, right, bottom = rectangle
    for inset, ink in enumerate(("black", *(color,) * LINE_PX, "black")):
        edges = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
        if edges[0] <= edges[2] and edges[1] <= edges[3]:
            drawing.rectangle(edges, outline=ink)


def _badge(
    drawing: ImageDraw.ImageDraw,
    rectangle: Rectangle,
    numbers: Sequence[int],
    *,
    taken: Sequence[Rectangle],
    size: tuple[int, int],
) -> Rectangle:
    """In the first corner of the box that no other badge covers, else beside it on the upper edge."""
    width, height = badge_size(numbers)
    left, top, right, bottom = rectangle
    corners = [(left, top), (right - width, top), (left, bottom - height), (right - width, bottom - height)]
    along = [(left + step, top) for step in range(width, max(right - left - width, 0), width)]
    inside = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in (*corners, *along)]
    free = [(x, y) for x, y in inside if not any(_overlap((x, y, x + width, y + height), other) for other in taken)]
    return draw_badge(drawing, (free or inside)[0], numbers)


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
