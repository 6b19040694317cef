"""The small whole image: in proportion, with every view's box where the view is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageColor

from kd_ray.evaluate.whole_image import COLORS, MIN_SIDE_PX, WHOLE_PX, NumberedBox, color_of, ink_on, whole_with_boxes

GRAY = 128


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GRAY, np.uint8)


def marked(picture: np.ndarray, number: int) -> np.ndarray:
    """Where the picture has the colour of a view."""
    return (picture == ImageColor.getrgb(color_of(number))).all(axis=2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((WHOLE_PX * 2, WHOLE_PX * 4), (WHOLE_PX // 2, WHOLE_PX)),
        ((8, 4), (8 * (WHOLE_PX // 8), 4 * (WHOLE_PX // 8))),  # whole multiples
        ((200, 100), (200, 100)),
    ],
)
def test_the_longest_side_is_what_fits(size, expected):
    assert whole_with_boxes(gray(*size), []).shape == (*expected, 3)


def test_a_box_is_drawn_at_its_place():
    picture = whole_with_boxes(gray(200, 260), [NumberedBox(number=0, fractions=(0.25, 0.1, 0.75, 0.9))])
    rows, columns = np.nonzero(marked(picture, 0))
    # one black pixel lies around the colour
    assert (rows.min(), rows.max()) == (20 + 1, 180 - 2)
    assert (columns.min(), columns.max()) == (65 + 1, 195 - 2)


def test_each_view_has_its_colour_and_equal_boxes_are_one_with_all_numbers():
    apart = [NumberedBox(number=n, fractions=(0.1 * n, 0.1 * n, 0.5 + 0.1 * n, 0.5 + 0.1 * n)) for n in range(4)]
    picture = whole_with_boxes(gray(200, 200), apart)
    assert all(marked(picture, number).any() for number in range(4))
    together = whole_with_boxes(gray(200, 200), [NumberedBox(number=n, fractions=(0.1, 0.1, 0.9, 0.9)) for n in (0, 1)])
    assert marked(together, 0).any()
    assert not marked(together, 1).any()


def test_numbers_do_not_cover_one_another():
    boxes = [NumberedBox(number=n, fractions=(0.0, 0.0, 1.0 - 0.1 * n, 1.0)) for n in range(4)]
    alone = [marked(whole_with_boxes(gray(200, 200), [box]), box.number).sum() for box in boxes]
    together = whole_with_boxes(gray(200, 200), boxes)
    # a badge has some 200 pixels of its colour, an outline that another crosses loses few
    assert all(marked(together, n).sum() > 200 for n in range(4)), alone


def luminance(color: str) -> float:
    """As WCAG 2 defines it."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(ImageColor.getrgb(color)) / 255
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("number", range(len(COLORS)))
def test_numbers_can_be_read_on_their_colour(number):
    paper, ink = luminance(color_of(number)), luminance(ink_on(color_of(number)))
    # WCAG's ratio for text of this size is 4.5 where it is not bold
    assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


fractions = (
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    .map(lambda each: (*sorted((each[0], each[1])), *sorted((each[2], each[3]))))
    .map(lambda each: (each[0], each[2], each[1], each[3]))
)


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 4000),
    boxes=st.lists(st.tuples(st.integers(0, 99), fractions), max_size=10),
)
@settings(max_examples=50)
def test_any_image_with_any_boxes_gives_a_small_picture(height, width, boxes):
    image = gray(height, width)
    picture = whole_with_boxes(image, [NumberedBox(number=n, fractions=each) for n, each in boxes])
    assert min(picture.shape[:2]) >= MIN_SIDE_PX
    assert max(picture.shape[:2]) <= WHOLE_PX
    assert (image == GRAY).all()
