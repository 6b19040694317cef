"""A contact sheet as one PNG, to be sent around: the same views and words as on its page."""

import io
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kd_ray.evaluate.contact_sheet import Eye, SeenView, Sheet, SheetRow
from kd_ray.evaluate.describe_view import BETWEEN
from kd_ray.evaluate.whole_image import FONT_PX, WHOLE_PX, badge_size, draw_badge, sheet_font

GAP_PX = 8
KINDS_GAP_PX = 40
MARGIN_PX = 16
LINE_HEIGHT_PX = FONT_PX + 4
MIN_WORDS_PX = 200  # narrower, the words of one view take more room than its pixels
MAX_WIDTH_PX = 2_000  # more views than fit go below
NO_BREAK = "\N{NO-BREAK SPACE}"
SHORT_PHRASE = 24  # characters; they fit in MIN_WORDS_PX
PAPER, INK, PALE_INK, RULE = "white", "#1c2330", "#56607a", "#c3cad6"


def sheet_png(sheet: Sheet) -> bytes:
    """The PNG: title, notes and eyes, then for each sample the whole image and its views, each with its words.

    Kinds of views that fit beside one another are.
    """
    width = _width(sheet)
    inner = width - 2 * MARGIN_PX
    blocks = [_text(sheet.title, inner, ink=INK), *(_text(note, inner, ink=PALE_INK) for note in sheet.notes)]
    blocks += [_text(legend, inner, ink=PALE_INK) for kind in sheet.kinds for legend in kind.legends]
    for name, rows in groupby(sheet.rows, key=lambda row: row.name):
        blocks += [Image.new("RGB", (inner, 1), RULE), _text(name, inner, ink=INK)]
        blocks += _in_lines([_titled(row, inner) for row in rows], inner)
    whole = _below(blocks, gap=GAP_PX)
    page = Image.new("RGB", (width, whole.height + 2 * MARGIN_PX), PAPER)
    page.paste(whole, (MARGIN_PX, MARGIN_PX))
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def _width(sheet: Sheet) -> int:
    """As wide as all views of a row beside one another, but not above MAX_WIDTH_PX unless one view is."""
    return 2 * MARGIN_PX + WHOLE_PX + max(_views_width(row) for row in sheet.rows)


def _views_width(row: SheetRow) -> int:
    cell = _cell_width(row.kind.eyes)
    fit = max((MAX_WIDTH_PX - 2 * MARGIN_PX - WHOLE_PX) // (GAP_PX + cell), 1)
    return min(fit, len(row.views)) * (GAP_PX + cell)


def _cell_width(eyes: Sequence[Eye]) -> int:
    shown = sum(eye.size_px[1] * eye.factor for eye in eyes) + GAP_PX * (len(eyes) - 1)
    return max(shown, MIN_WORDS_PX)


def _titled(row: SheetRow, width: int) -> Image.Image:
    """The row, below the name of its kind where it has one."""
    picture = _row(row, width)
    return _below([_text(row.kind.name, picture.width, ink=PALE_INK), picture], gap=4) if row.kind.name else picture


def _in_lines(pictures: Sequence[Image.Image], width: int) -> list[Image.Image]:
    """The pictures in their order, beside one another as long as they fit."""
    lines: list[list[Image.Image]] = []
    for each in pictures:
        used = sum(other.width + KINDS_GAP_PX for other in lines[-1]) if lines else width
        if used + each.width <= width:
            lines[-1].append(each)
        else:
            lines.append([each])
    return [_beside(line, gap=KINDS_GAP_PX) for line in lines]


def _row(row: SheetRow, width: int) -> Image.Image:
    eyes = row.kind.eyes
    cells = [_cell(view, eyes) for view in row.views]
    per_line = max((width - WHOLE_PX) // (GAP_PX + _cell_width(eyes)), 1)
    lines = [_beside(cells[start : start + per_line]) for start in range(0, len(cells), per_line)]
    whole = Image.new("RGB", (WHOLE_PX, row.whole_HW3.shape[0]), PAPER)
    whole.paste(Image.fromarray(row.whole_HW3), (0, 0))
    return _beside([whole, _below(lines, gap=GAP_PX)])


def _cell(view: SeenView, eyes: Sequence[Eye]) -> Image.Image:
    """One view: what each eye sees, then its number and words; with several eyes, their names above."""
    seen = [
        _below([*_name(eye, eyes), Image.fromarray(enlarged(pixels_HW3, eye.factor))], gap=2)
        for eye, pixels_HW3 in zip(eyes, view.pixels, strict=True)
    ]
    width = _cell_width(eyes)
    badge_width = badge_size([view.view_index])[0]
    words = _text(_kept_together(view.words), width - badge_width - GAP_PX, ink=INK)
    caption = Image.new("RGB", (width, max(words.height, badge_size([view.view_index])[1])), PAPER)
    draw_badge(ImageDraw.Draw(caption), (0, 0), [view.view_index])
    caption.paste(words, (badge_width + GAP_PX, 0))
    return _below([_beside(seen), caption], gap=4)


def _kept_together(words: str) -> str:
    """With short phrases (`brightness ×1.12`) unbreakable."""
    phrases = words.split(BETWEEN)
    return BETWEEN.join(each.replace(" ", NO_BREAK) if len(each) <= SHORT_PHRASE else each for each in phrases)


def enlarged(pixels_HW3: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Every pixel `factor` times in both directions."""
    return pixels_HW3.repeat(factor, axis=0).repeat(factor, axis=1)


def _name(eye: Eye, eyes: Sequence[Eye]) -> list[Image.Image]:
    return [_text(", ".join(eye.names), eye.size_px[1] * eye.factor, ink=PALE_INK)] if len(eyes) > 1 else []


def _text(text: str, width: int, *, ink: str) -> Image.Image:
    lines = list(_wrapped(text, width))
    picture = Image.new("RGB", (width, LINE_HEIGHT_PX * len(lines)), PAPER)
    drawing = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        drawing.text((0, number * LINE_HEIGHT_PX), line, fill=ink, font=sheet_font())
    return picture


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of at most `width` pixels, broken at spaces, and within a word only where it is wider by itself."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}".lstrip()
        if sheet_font().getlength(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while sheet_font().getlength(line) > width and len(line) > 1:
            fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or sheet_font().getlength(line[:n]) <= width)
            yield line[:fits]
            line = line[fits:]
    yield line


def _beside(pictures: Sequence[Image.Image], *, gap: int = GAP_PX) -> Image.Image:
    size = sum(each.width + gap for each in pictures) - gap, max(each.height for each in pictures)
    joined, left = Image.new("RGB", size, PAPER), 0
    for each in pictures:
        joined.paste(each, (left, 0))
        left += each.width + gap
    return joined


def _below(pictures: Sequence[Image.Image], *, gap: int) -> Image.Image:
    size = max(each.width for each in pictures), sum(each.height + gap for each in pictures) - gap
    joined, top = Image.new("RGB", size, PAPER), 0
    for each in pictures:
        joined.paste(each, (0, top))
        top += each.height + gap
    return joined
