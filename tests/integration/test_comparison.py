"""Students beside each other: which score counts, the order, and files that say what the table says."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import pytest

from kd_ray.evaluate.comparison import (
    HEADINGS,
    ComparedStudent,
    comparison_csv,
    comparison_json,
    comparison_rows,
    comparison_svg,
    over_reference,
    score_of,
)


def student(name: str, *, score: float | None, over: float | None = None) -> ComparedStudent:
    return ComparedStudent(
        name=name,
        title="train.seed 1, train.epochs 2",
        num_parameters=12_345,
        cpu_ms_per_image=1.5,
        scored_by=None if score is None else "top1",
        score=score,
        over_reference=over,
        train_seconds=61.2,
        run_uri=f"/runs/{name}",
    )


STUDENTS = [student("low", score=0.5), student("none", score=None), student("high", score=0.75, over=0.125)]


def test_the_first_score_that_there_is_counts() -> None:
    assert score_of({"agreement/teacher": 0.9, "knn_top1": 0.25, "top1": 0.5}) == ("top1", 0.5)
    assert score_of({"agreement/teacher": 0.9, "knn_top1": 0.25}) == ("knn_top1", 0.25)
    assert score_of({"agreement/teacher": 0.9}) == (None, None)


def test_a_student_is_compared_with_a_reference_that_is_scored_as_it_is() -> None:
    assert over_reference({"top1": 0.75}, {"top1": 0.5}) == 0.25
    assert over_reference({"knn_top1": 0.75}, {"top1": 0.5}) is None
    assert over_reference({"top1": 0.75}, None) is None
    assert over_reference({}, {"top1": 0.5}) is None


def test_the_best_comes_first_and_who_is_not_scored_last() -> None:
    rows = comparison_rows(STUDENTS)
    assert [row[0] for row in rows] == ["high", "low", "none"]
    assert all(len(row) == len(HEADINGS) for row in rows)
    assert rows[0][1:5] == ("12,345", "1.50", "75.00 % top1", "+12.50")
    assert rows[2][3:5] == ("-", "")


def test_both_files_hold_every_number_in_the_order_of_the_recipe() -> None:
    lines = list(csv.DictReader(io.StringIO(comparison_csv(STUDENTS))))
    objects = json.loads(comparison_json(STUDENTS))
    assert [line["name"] for line in lines] == [each["name"] for each in objects] == ["low", "none", "high"]
    for line, each in zip(lines, objects, strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in each.items()}
    assert objects[2]["over_reference"] == 0.125


def test_the_plot_names_every_student_that_is_scored() -> None:
    svg = comparison_svg(STUDENTS)
    assert svg is not None
    ET.fromstring(svg)
    assert "high" in svg
    assert "none" not in svg.replace("fill: none", "").replace("fill:none", "").replace('fill="none"', "")
    assert comparison_svg([STUDENTS[1]]) is None


@pytest.mark.parametrize("num_students", [1, 2])
def test_the_plot_has_a_point_for_each_in_both_panels(num_students: int) -> None:
    def num_markers(count: int) -> int:
        svg = comparison_svg([student(f"s{index}", score=0.5) for index in range(count)])
        assert svg is not None
        return svg.count('<use xlink:href="#m')

    # in the two panels, one in the plot and one in the legend
    assert num_markers(num_students + 1) - num_markers(num_students) == 4
