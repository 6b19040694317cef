"""Several students beside each other: what each is, costs and scores; as a table, as files, and as a plot."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

HEADINGS = ("student", "parameters", "CPU ms/image", "score", "over reference", "training", "of the grid")
SCORES = ("top1", "knn_top1")  # the first one that a student has is what it is compared by
WIDTH_INCHES, HEIGHT_INCHES = 9.0, 3.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStudent:
    """One student; `score` is its share of right answers by `scored_by`, None where it was not scored.

    `over_reference` is how far that is above the score of the same student trained on the labels alone.
    """

    name: str
    title: str
    num_parameters: int
    cpu_ms_per_image: float
    scored_by: str | None
    score: float | None
    over_reference: float | None
    train_seconds: float
    run_uri: str


def score_of(scores: Mapping[str, float]) -> tuple[str | None, float | None]:
    """Which of SCORES there is, and its value."""
    return next(((name, scores[name]) for name in SCORES if name in scores), (None, None))


def over_reference(scores: Mapping[str, float], reference: Mapping[str, float] | None) -> float | None:
    """The student's score less the reference's; None where one of the two is not scored in the same way."""
    name, score = score_of(scores)
    if name is None or score is None or reference is None or name not in reference:
        return None
    return score - reference[name]


def comparison_rows(students: Sequence[ComparedStudent]) -> list[tuple[str, ...]]:
    """One row of texts a student, under HEADINGS, the best score first."""
    return [
        (
            each.name,
            f"{each.num_parameters:,}",
            f"{each.cpu_ms_per_image:.2f}",
            "-" if each.score is None else f"{100 * each.score:.2f} % {each.scored_by}",
            "" if each.over_reference is None else f"{100 * each.over_reference:+.2f}",
            f"{each.train_seconds:,.0f} s",
            each.title,
        )
        for each in sorted(students, key=lambda each: -1.0 if each.score is None else each.score, reverse=True)
    ]


def comparison_csv(students: Sequence[ComparedStudent]) -> str:
    """All that is known, a line a student in the recipe's order; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(ComparedStudent)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in students)
    return buffer.getvalue()


def comparison_json(students: Sequence[ComparedStudent]) -> str:
    """The same as a list of objects, with null for what is not known."""
    return json.dumps([asdict(each) for each in students], indent=1)


def comparison_svg(students: Sequence[ComparedStudent]) -> str | None:
    """Two panels: the score against the number of parameters, and against the CPU time of an image.

    None where no student is scored.
    """
    scored = [each for each in students if each.score is not None]
    if not scored:
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which would take over the backend of a caller's notebook

    with mpl.rc_context({"svg.hashsalt": "kd_ray", "font.size": 9}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        by_size, by_time = figure.subplots(1, 2)
        _scatter(by_size, scored, [each.num_parameters for each in scored], "parameters")
        _scatter(by_time, scored, [each.cpu_ms_per_image for each in scored], "CPU ms per image")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)


def _scatter(axes: Any, scored: Sequence[ComparedStudent], cost: Sequence[float], xlabel: str) -> None:
    for index, (each, value) in enumerate(zip(scored, cost, strict=True)):
        axes.plot([value], [100 * (each.score or 0.0)], marker="o", linestyle="", color=f"C{index}", label=each.name)
    names = sorted({each.scored_by or "" for each in scored})
    axes.set(xlabel=xlabel, ylabel=f"{' or '.join(names)} on held-out images, %", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=7)
