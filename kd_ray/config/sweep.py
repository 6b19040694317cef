"""Several students in one recipe: by name, and by a grid of values for fields of the student and of its training."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Annotated, Any

from pydantic import Field, field_validator

from kd_ray.config.base import Section
from kd_ray.config.corpus import PositiveInt

VARIED = ("student", "train")  # the sections that students may have their own values of
OWN_NAME = "student.name"
# One worker group trains student after student.
OF_THE_GROUP = ("train.num_workers", "train.resources_per_worker", "train.max_failures", "train.max_parallel_students")


class Sweep(Section):
    """Every combination of the values of `grid`, by dotted path (`train.optimizer.learning_rate`), is a student."""

    grid: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    max_students: PositiveInt = Field(default=32, description="a grid that makes more is a mistake")

    @field_validator("grid", mode="before")
    @classmethod
    def _flat(cls, grid: Any) -> Any:
        """Nested sections, as overrides make them, as dotted paths; of two values for one path the later one counts."""
        return dict(_paths(grid)) if isinstance(grid, Mapping) else grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """One student of several: its `values` by dotted path, to be laid over the recipe's in this order.

    `written` says where the recipe has each, and `title` what people are told of it.
    """

    name: str
    title: str
    values: Mapping[str, Any]
    written: Mapping[str, str]


def variations(name: str, students: Mapping[str, Mapping[str, Any]], sweep: Sweep | None) -> tuple[Variation, ...]:
    """Every student: each of `students` (the recipe's own, called `name`, where there are none) at each grid point."""
    named = [_named(each, fields) for each, fields in students.items()] or [
        Variation(name=name, title="", values={}, written={})
    ]
    points = list(_points(sweep.grid)) if sweep is not None else [("", "", {})]
    return tuple(_joined(student, *point) for student in named for point in points)


def misplaced(students: Mapping[str, Mapping[str, Any]], sweep: Sweep | None) -> Iterator[tuple[str, str]]:
    """Paths that no student can have a value of its own of, and a grid that is too large: (path, why) of each."""
    for name, fields in students.items():
        if "name" in fields:
            yield f"students.{name}.name", f"a student is called by its key, {name!r}; remove it"
        if not isinstance(fields.get("train", {}), Mapping):
            yield f"students.{name}.train", "give the fields of train that differ, e.g. train: {epochs: 30}"
        for path in _named(name, fields).values:
            if _below(path, OF_THE_GROUP):
                yield f"students.{name}.{path}", f"all students share it; give it as {path} of the recipe"
    if sweep is None:
        return
    for path in sweep.grid:
        if path.split(".")[0] not in VARIED or "." not in path:
            yield f"sweep.grid.{path}", "a grid is over fields of student and train, e.g. train.optimizer.learning_rate"
        elif _below(path, (OWN_NAME,)):
            yield f"sweep.grid.{path}", "students of a grid are called by its values; remove it"
        elif _below(path, OF_THE_GROUP):
            yield f"sweep.grid.{path}", f"all students share it; give it as {path} of the recipe"
    count = prod(map(len, sweep.grid.values())) * max(len(students), 1)
    if count > sweep.max_students:
        sizes = " x ".join(str(len(values)) for values in sweep.grid.values())
        of_each = f" of each of {len(students)} students" if len(students) > 1 else ""
        yield (
            "sweep.grid",
            f"it makes {count:,} students ({sizes}{of_each}), more than sweep.max_students "
            f"({sweep.max_students}). Take values out, or raise that",
        )


def mutual_problems(students: Mapping[str, Mapping[str, Any]], sweep: Sweep | None) -> Iterator[tuple[str, str]]:
    """Why students cannot train together: (path, why) of each."""
    if len(students) != 2 or sweep is not None:
        yield "train.mutual", "it is for a recipe with two students, by name, and no sweep"
    for name, fields in students.items():
        train = fields.get("train", {})
        for key in train if isinstance(train, Mapping) else ():
            if key != "losses":
                yield f"students.{name}.train.{key}", f"both train in one loop; give it as train.{key}"
        if "input" in fields:
            yield f"students.{name}.input", "both see the same pixels; give it as student.input"


def _named(name: str, fields: Mapping[str, Any]) -> Variation:
    """A student of `students`: fields of the student, and under `train` of its training."""
    own = {f"student.{key}": value for key, value in fields.items() if key != "train"}
    train = fields.get("train", {})
    trained = {f"train.{key}": value for key, value in train.items()} if isinstance(train, Mapping) else {}
    written = {path: f"students.{name}.{path.removeprefix('student.')}" for path in (*own, *trained)}
    return Variation(name=name, title="", values={**own, **trained}, written=written)


def _points(grid: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of every point of a grid: the end of the student's name, what is told of it, and its values."""
    words = {path: _shortest(path, grid) for path in grid}
    labels = {path: _labels(values) for path, values in grid.items()}
    for indices in product(*(range(len(values)) for values in grid.values())):
        at = dict(zip(grid, indices, strict=True))
        suffix = "".join(f"-{words[path]}-{labels[path][index]}" for path, index in at.items())
        title = ", ".join(f"{path} {grid[path][index]}" for path, index in at.items())
        yield suffix, title, {path: grid[path][index] for path, index in at.items()}


def _joined(student: Variation, suffix: str, title: str, values: Mapping[str, Any]) -> Variation:
    return Variation(
        name=f"{student.name}{suffix}",
        title=title,
        values={**student.values, **values},
        written={**student.written, **{path: f"sweep.grid.{path}" for path in values}},
    )


def _shortest(path: str, grid: Mapping[str, Any]) -> str:
    """So many of the last words of a path as tell it from the others."""
    words = path.split(".")
    for count in range(1, len(words)):
        if sum(each.split(".")[-count:] == words[-count:] for each in grid) == 1:
            return "_".join(words[-count:])
    return "_".join(words)


def _labels(values: Sequence[Any]) -> list[str]:
    """What each value is called in a name: itself, or its place among the others where that cannot tell them apart."""
    labels = [_label(value) for value in values]
    if None in labels or len(set(labels)) < len(labels):
        return [str(index) for index in range(len(values))]
    return [label for label in labels if label is not None]


def _label(value: Any) -> str | None:
    if value is not None and not isinstance(value, str | bool | int | float):
        return None
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "null" if value is None else str(value).lower()) or None


def _paths(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, Mapping):
            yield from _paths(inner, path)
        else:
            yield path, inner


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(f"{root}.") for root in roots)
