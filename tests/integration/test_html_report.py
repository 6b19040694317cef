"""The page and its curves: one file, nothing fetched, all text escaped, every number shown."""

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl

from kd_ray.evaluate.curves import curves_svg
from kd_ray.evaluate.report import ReportContent, render_report

EVIL = '<script>alert("x")</script>'
HISTORIES = {
    "student": [
        {"step": 20, "loss": 1.5},
        {"step": 40, "loss": 0.25},
        {"step": 40, "test_top1": 0.875},
        {"step": 60, "loss": 0.125},
    ],
    "without-teacher": [{"step": 20, "loss": 2.5}, {"step": 60, "test_top1": 0.5}],
}
LEVELS = {"big-teacher": 0.9}
CONTENT = ReportContent(
    title="kd_ray: quickstart",
    summary="1,437 training images, 40 of them with a label that was used.",
    results=(("model", "top-1"), [("student", "87.50 %"), ("big-teacher", "90.00 %")]),
    stages=(("stage", "images/s"), [("train", "1,234")]),
    facts={"corpus": "0123456789abcdef", "python": "3.11"},
    histories=HISTORIES,
    levels=LEVELS,
    contact_sheet_png=b"\x89PNG not really",
    contact_sheet_caption="Each row is one training image.",
    recipe_yaml="name: quickstart\nviews: {count: 4}\n",
)


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def test_needs_nothing_but_itself(self) -> None:
        html = render_report(CONTENT)
        page = Page(html)
        links = [
            value or ""
            for _, attributes in page.elements
            for name, value in attributes.items()
            if name.split(":")[-1] in ("src", "href", "srcset", "data", "action")
        ]
        assert links
        assert all(link.startswith(("data:", "#")) for link in links), links
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
        assert "@import" not in html
        assert "url(http" not in html

    def test_shows_every_text_and_number(self) -> None:
        text = Page(render_report(CONTENT)).text
        for told in (
            CONTENT.title,
            CONTENT.summary,
            CONTENT.contact_sheet_caption,
            CONTENT.recipe_yaml.strip(),
            *("87.50 %", "90.00 %", "1,234", "0123456789abcdef", "3.11", "top-1", "images/s"),
        ):
            assert told in text

    def test_holds_the_contact_sheet(self) -> None:
        images = [attributes for tag, attributes in Page(render_report(CONTENT)).elements if tag == "img"]
        kind, data = str(images[0]["src"]).split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == CONTENT.contact_sheet_png

    def test_text_is_never_markup(self) -> None:
        evil = replace(
            CONTENT,
            title=EVIL,
            summary=EVIL,
            results=((EVIL,), [(EVIL,)]),
            stages=((EVIL,), [(EVIL,)]),
            facts={EVIL: EVIL},
            histories={EVIL: HISTORIES["student"]},
            levels={EVIL + " ": 0.5},
            contact_sheet_caption=EVIL,
            recipe_yaml=f"name: {EVIL}</pre>",
        )
        page = Page(render_report(evil))
        assert "script" not in {tag for tag, _ in page.elements}
        assert page.text.count(EVIL) >= 8


class TestCurves:
    def test_are_valid_xml_of_an_svg(self) -> None:
        root = ET.fromstring(curves_svg(HISTORIES, levels=LEVELS))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.attrib["viewBox"]

    def test_say_which_line_is_which(self) -> None:
        svg = curves_svg(HISTORIES, levels=LEVELS)
        for name in (*HISTORIES, *LEVELS, "training loss", "step"):
            assert f"<!-- {name} -->" in svg

    def test_several_teachers_have_a_panel_and_a_line_each(self) -> None:
        of_teachers = [{"step": step, "loss": 2.0, "teacher/a": 1.5, "teacher/b": 0.5} for step in (20, 40)]
        svg = curves_svg({"student": of_teachers}, levels={})
        for name in ("student, a", "student, b", "weighted losses of a teacher"):
            assert f"<!-- {name} -->" in svg
        assert "weighted losses of a teacher" not in curves_svg(HISTORIES, levels={})

    def test_the_same_numbers_give_the_same_bytes(self) -> None:
        assert curves_svg(HISTORIES, levels=LEVELS) == curves_svg(HISTORIES, levels=LEVELS)

    def test_a_run_without_evaluations_or_with_a_loss_of_zero_is_drawn(self) -> None:
        histories = {"a": [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}], "b": []}
        assert ET.fromstring(curves_svg(histories, levels={})).tag.endswith("svg")

    def test_leave_the_matplotlib_of_the_caller_alone(self) -> None:
        before = dict(mpl.rcParams)
        curves_svg(HISTORIES, levels=LEVELS)
        assert dict(mpl.rcParams) == before

    def test_lines_are_as_many_as_there_are_names(self) -> None:
        def num_paths(svg: str) -> int:
            return len(re.findall(r'id="line2d_\d+"', svg))

        one = curves_svg({"student": HISTORIES["student"]}, levels={})
        more = curves_svg({"student": HISTORIES["student"]}, levels=LEVELS)
        assert num_paths(more) > num_paths(one)


def test_students_beside_each_other_are_shown_where_there_are_several() -> None:
    headings, rows = ("student", "score"), [("wide", "87.50 % top1"), (EVIL, "50.00 % top1")]
    html = render_report(replace(CONTENT, comparison=(headings, rows), comparison_svg="<svg><title>plot</title></svg>"))
    text = Page(html).text
    assert "Students beside each other" in text
    assert "87.50 % top1" in text
    assert "<title>plot</title>" in html
    assert EVIL not in html
    assert "Students beside each other" not in render_report(CONTENT)
