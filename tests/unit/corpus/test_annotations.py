"""Boxes, polygons and class names: every form that is read, and everything that is refused."""

import json
import math

import pytest

from kd_ray.config.corpus import Access
from kd_ray.corpus.source import Box, Polygon
from kd_ray.corpus.sources.annotations import parse_boxes, parse_polygons, read_class_names
from kd_ray.errors import CorpusError
from tests.support.corpus_files import write
from tests.support.web import web_server

TRIANGLE = [0, 0, 4, 0, 4, 3.5]
NO_ANNOTATION = [None, math.nan, "", "null"]


def box(*corners: float, label: int | None = None) -> Box:
    return Box(label=label, corners=tuple(map(float, corners)))


def polygon(*points: float, label: int | None = None) -> Polygon:
    return Polygon(label=label, points=tuple(map(float, points)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ()),
        ([[1, 2, 3, 4.5]], (box(1, 2, 3, 4.5),)),
        ([(1, 2, 3, 4, 7)], (box(1, 2, 3, 4, label=7),)),
        ([[1, 2, 3, 4, -1]], (box(1, 2, 3, 4),)),
        ([[1, 2, 3, 4, 2.0]], (box(1, 2, 3, 4, label=2),)),
        ([[1, 2, 3, 4, None], [1, 2, 3, 4, math.nan]], (box(1, 2, 3, 4), box(1, 2, 3, 4))),
        ([{"box": [1, 2, 3, 4]}], (box(1, 2, 3, 4),)),
        ([{"label": 0, "box": [1, 2, 3, 4]}], (box(1, 2, 3, 4, label=0),)),
        ([{"bbox": [1, 2, 3, 4], "category_id": 5, "area": 12, "iscrowd": 0}], (box(1, 2, 4, 6, label=5),)),
        ({"bbox": [[1, 2, 3, 4], [0, 0, 1, 1]], "category": [5, -1]}, (box(1, 2, 4, 6, label=5), box(0, 0, 1, 1))),
        ({"bbox": [[1, 2, 3, 4]], "id": [9]}, (box(1, 2, 4, 6),)),
        ({"bbox": []}, ()),
        ("[[1, 2, 3, 4]]", (box(1, 2, 3, 4),)),
        ('{"bbox": [[1, 2, 3, 4]], "category": [0]}', (box(1, 2, 4, 6, label=0),)),
        ([[-3, -2, 0, 0]], (box(-3, -2, 0, 0),)),
    ],
)
def test_boxes_are_read(value, expected):
    assert parse_boxes(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *([[3, 2, 1, 4]], [[1, 4, 3, 2]], [[1, 2, 1, 4]], [{"bbox": [1, 2, 0, 4]}], [{"bbox": [1, 2, -3, 4]}]),
        *([[1, 2, math.inf, 4]], [[math.nan, 2, 3, 4]], [[1, 2, 10**400, 4]], [{"bbox": [1e308, 0, 1e308, 1]}]),
        *([1, 2, 3, 4], [[1, 2, 3]], [[1, 2, 3, 4, 5, 6]], [[1, 2, "3", 4]], [[True, 2, 3, 4]], [None], ["1 2 3 4"]),
        *(
            [[1, 2, 3, 4, 1.5]],
            [[1, 2, 3, 4, "cat"]],
            [[1, 2, 3, 4, True]],
            [[1, 2, 3, 4, 2**31]],
            [[1, 2, 3, 4, 1e999]],
        ),
        *([{}], [{"label": 1}], {}, {"category": [1]}, {"bbox": [[1, 2, 3, 4]], "category": [1, 2]}),
        *({"bbox": [[1, 2, 3, 4]], "category": 1}, {"bbox": 1}, [{"box": 1}], [{"bbox": [1, 2, 3]}]),
        *("not JSON", "[" * 100_000, "5", 5, True, b"[]"),
    ],
)
def test_boxes_that_cannot_be_understood_are_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parse_boxes(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ()),
        ([TRIANGLE], (polygon(*TRIANGLE),)),
        ([{"points": TRIANGLE, "label": 3}], (polygon(*TRIANGLE, label=3),)),
        (
            [{"segmentation": [TRIANGLE, [0, 0, 1, 0, 1, 1, 0, 1]], "category_id": 2}, TRIANGLE],
            (polygon(*TRIANGLE, label=2), polygon(0, 0, 1, 0, 1, 1, 0, 1, label=2), polygon(*TRIANGLE)),
        ),
        (json.dumps([{"points": TRIANGLE, "label": -1}]), (polygon(*TRIANGLE),)),
    ],
)
def test_polygons_are_read(value, expected):
    assert parse_polygons(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *([[0, 0, 1, 1]], [[0, 0, 1, 0, 1]], [[*TRIANGLE, 1]], [[]], [[0, 0, 1, 0, 1, math.nan]], TRIANGLE),
        *([{"segmentation": {"counts": "a1", "size": [2, 2]}}], [{"segmentation": [[1, 2]]}], [{}], {}, "x", 5),
    ],
)
def test_polygons_that_cannot_be_understood_are_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parse_polygons(value)


@pytest.mark.parametrize("value", NO_ANNOTATION)
def test_null_is_no_annotation(value):
    assert parse_boxes(value) is None
    assert parse_polygons(value) is None


class TestClassNames:
    def test_they_are_a_json_list(self, tmp_path):
        write(tmp_path / "classes.json", '["cat", "größer"]'.encode())
        assert read_class_names(str(tmp_path / "classes.json"), Access()) == ("cat", "größer")

    def test_they_may_lie_elsewhere_than_what_access_is_for(self, tmp_path):
        write(tmp_path / "classes.json", b'["cat"]')
        with web_server(tmp_path) as url:
            assert read_class_names(f"{url}/classes.json", Access(anonymous=True)) == ("cat",)

    @pytest.mark.parametrize("text", ['["one", "one"]', "[]", '{"a": 1}', "[1, 2]", '[""]', '"cat"'])
    def test_anything_else_is_refused(self, tmp_path, text):
        write(tmp_path / "classes.json", text.encode())
        with pytest.raises(CorpusError, match="expected a JSON list of distinct class names, got"):
            read_class_names(str(tmp_path / "classes.json"), Access())

    @pytest.mark.parametrize("data", [b"cat\ndog\n", b"\xff\xfe[\0", b"[" * 100_000])
    def test_what_is_not_json_is_refused(self, tmp_path, data):
        write(tmp_path / "classes.json", data)
        with pytest.raises(CorpusError, match=r"not JSON .*corpus\.classes_uri needs"):
            read_class_names(str(tmp_path / "classes.json"), Access())

    def test_a_list_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(CorpusError, match=r"classes\.json: not found\. Correct corpus\.classes_uri"):
            read_class_names(str(tmp_path / "classes.json"), Access())
