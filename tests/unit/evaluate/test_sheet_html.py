"""The page of views: one file, nothing fetched, every picture with words, exact pixels and exact params."""

import base64
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.views import EVALUATION_POLICY
from kd_ray.evaluate.contact_sheet import Eye, SeenView, Sheet, SheetKind, SheetRow
from kd_ray.evaluate.sheet_html import sheet_html
from kd_ray.views import BoxParams, CropParams, FlipParams, MixParams, params_from_json
from tests.support.html_page import Page

EVIL = '<script>alert("x")</script>'
EYES = (
    Eye(names=("dinov2 (teacher)",), size_px=(140, 150), interpolation="bicubic"),
    Eye(names=("student",), size_px=(20, 30), interpolation="bilinear"),
)

KIND = SheetKind(name="", policy=EVALUATION_POLICY, num_views=3, eyes=EYES)


def noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def view(index: int) -> SeenView:
    crop = CropParams(left=0.1 * index, top=1 / 3, width=0.5, height=0.25)
    mix = MixParams(
        partner=7,
        partner_params=(crop,),
        weight=0.75,
        box=BoxParams(left=0.0, top=0.0, width=0.5, height=0.5) if index else None,
    )
    return SeenView(
        view_index=index,
        params=(crop, FlipParams(flipped=True), mix),
        pixels=tuple(noise(index, *eye.size_px) for eye in EYES),
    )


SHEET = Sheet(
    title="Views of quickstart",
    notes=("Policy weak, seed 0.", "From the packed corpus out/corpus."),
    kinds=(KIND,),
    rows=tuple(
        SheetRow(kind=KIND, name=f"sample {i:016x}, cat", whole_HW3=noise(i, 50, 60), views=(view(0), view(1), view(2)))
        for i in range(2)
    ),
)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(sheet_html(SHEET))


def pixels_of(image: dict[str, str | None]) -> NDArray[np.uint8]:
    kind, data = str(image["src"]).split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_needs_nothing_but_itself(page: Page) -> None:
    links = {
        str(value)
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name.split(":")[-1] in ("src", "href", "srcset", "data", "action")
    }
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    style = "".join(text for tag, text in page.texts if tag == "style")
    assert "@import" not in style
    assert "url(" not in style
    assert "prefers-color-scheme: dark" in style


def test_every_view_is_there_for_every_eye_at_its_pixels(page: Page) -> None:
    expected = [
        picture
        for row in SHEET.rows
        for picture in (row.whole_HW3, *(seen for each in row.views for seen in each.pixels))
    ]
    images = page.all("img")
    assert len(images) == len(expected) == 2 * (1 + 3 * 2)
    for image, pixels in zip(images, expected, strict=True):
        np.testing.assert_array_equal(pixels_of(image), pixels)


def test_small_views_are_enlarged_by_a_whole_factor(page: Page) -> None:
    shown = Counter((image["width"], image["height"], image.get("class")) for image in page.all("img"))
    assert shown == {("60", "50", None): 2, ("150", "140", None): 6, (str(30 * 4), str(20 * 4), "enlarged"): 6}


def test_every_picture_has_words_of_its_own(page: Page) -> None:
    alts = [str(image["alt"]) for image in page.all("img")]
    assert len(set(alts)) == len(alts)
    for row in SHEET.rows:
        for each in row.views:
            for eye in EYES:
                assert f"{row.name}, view {each.view_index}, as seen by {eye.title}: {each.words}" in alts


def test_words_are_to_be_read_and_params_to_be_opened(page: Page) -> None:
    for each in SHEET.rows[0].views:
        assert page.text.count(each.words) == len(SHEET.rows)
    for told in (SHEET.title, *SHEET.notes, *(eye.legend for eye in EYES), *(row.name for row in SHEET.rows)):
        assert told in page.text
    found = [params_from_json(text) for tag, text in page.texts if tag == "pre"]
    assert found == [each.params for row in SHEET.rows for each in row.views]
    hover = [params_from_json(str(each["title"])) for each in page.all("div") if "title" in each]
    assert hover == found


def test_headings_and_labels_lead_a_screen_reader(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    labels = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)
    assert len(page.all("section")) == len(SHEET.rows)
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("html")[0]["lang"] == "en"


def test_text_is_never_markup() -> None:
    kind = replace(KIND, name=EVIL, eyes=tuple(replace(eye, names=(EVIL,)) for eye in EYES))
    evil = replace(
        SHEET,
        title=EVIL,
        notes=(EVIL,),
        kinds=(kind,),
        rows=tuple(replace(row, name=EVIL, kind=kind) for row in SHEET.rows),
    )
    page = Page(sheet_html(evil))
    assert not page.all("script")
    assert page.text.count(EVIL) >= 5
