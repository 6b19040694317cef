"""The students of a recipe, each as a recipe of its own, which a run trains as if it were alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from kd_ray.config.base import Misfits, Section
from kd_ray.config.layers import merged
from kd_ray.config.problems import Problem, describe, origin_of, problems_of
from kd_ray.config.recipe import Recipe
from kd_ray.config.student import Student
from kd_ray.config.sweep import Sweep, Variation, misplaced, variations
from kd_ray.config.train import Train
from kd_ray.errors import RecipeError

MANY = ("students", "sweep")
SECTIONS: Mapping[str, type[Section]] = {"student": Student, "train": Train}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStudent:
    """A student's `recipe`, and what people are told of its place in a grid ("" where there is none)."""

    recipe: Recipe
    title: str


def each_student(recipe: Recipe) -> tuple[OneStudent, ...]:
    """Every student of the recipe by itself, in its order.

    Raises:
        RecipeError: as `kd_ray.config.load.load_recipe`, which finds the same mistakes and where they were written.
    """
    if not recipe.has_many_students:
        return (OneStudent(recipe=recipe, title=""),)
    values = recipe.model_dump(mode="json")
    problems = mistakes_of_students(values, origins={}, default_origin=f"recipe {recipe.name}", known=())
    if problems:
        raise RecipeError(describe(problems))
    return tuple(
        OneStudent(recipe=Recipe.model_validate(_values_of(values, each)), title=each.title)
        for each in variations(recipe.student.name, recipe.students, recipe.sweep)
    )


def mistakes_of_students(
    values: Mapping[str, Any], *, origins: Mapping[str, str], default_origin: str, known: Sequence[Problem]
) -> list[Problem]:
    """What is wrong with each student of plain `values`, but what is `known` to be wrong with the recipe itself."""
    found: list[Problem] = []
    told = {(each.path, each.got) for each in known}
    for each in _variations_of(values):
        for problem in _mistakes_of(values, each, origins=origins, default_origin=default_origin):
            if (problem.path, problem.got) in told:
                continue
            placed = _placed(problem, each, origins)
            if placed not in found:
                found.append(placed)
    return found


def _variations_of(values: Mapping[str, Any]) -> tuple[Variation, ...]:
    """None where these parts of the recipe are wrong themselves, which has been told."""
    if not any(values.get(key) for key in MANY):
        return ()
    students = values.get("students") or {}
    if not isinstance(students, Mapping) or not all(isinstance(each, Mapping) for each in students.values()):
        return ()
    try:
        sweep = Sweep.model_validate(values["sweep"]) if values.get("sweep") is not None else None
    except ValidationError:
        return ()
    if any(True for _ in misplaced(students, sweep)):
        return ()
    student = values.get("student")
    name = student.get("name", "student") if isinstance(student, Mapping) else "student"
    return variations(str(name), students, sweep)


def _values_of(values: Mapping[str, Any], student: Variation) -> dict[str, Any]:
    """A recipe of one student; raises Misfits where a path points past the end of a list."""
    one = {key: value for key, value in values.items() if key not in MANY}
    for section, kind in SECTIONS.items():
        one[section] = _whole(one.get(section, {}), kind)
    for path, value in student.values.items():
        keys = path.split(".")
        layer = value
        for key in reversed(keys):
            layer = {key: layer}
        one = merged(_without_other_kinds(one, layer), layer)
    if isinstance(one["train"], Mapping):  # what two have in common is no one's own
        one["train"] = {key: value for key, value in one["train"].items() if key != "mutual"}
    return merged(one, {"student": {"name": student.name}})  # type: ignore[no-any-return]


def _whole(values: Any, kind: type[Section]) -> Any:
    """A section with its defaults, so that a path into one of them finds it; as written where it is wrong."""
    try:
        return kind.model_validate(values).model_dump(mode="json")
    except ValidationError:
        return values


def _without_other_kinds(base: Any, layer: Any) -> Any:
    """`base` without the fields of every section that the layer makes one of another kind."""
    if not isinstance(layer, Mapping):
        return base
    if isinstance(base, Mapping):
        if "kind" in layer and layer["kind"] != base.get("kind"):
            return {}
        return {key: _without_other_kinds(inner, layer.get(key)) for key, inner in base.items()}
    if isinstance(base, list | tuple):
        return [_without_other_kinds(inner, layer.get(str(index))) for index, inner in enumerate(base)]
    return base


def _mistakes_of(
    values: Mapping[str, Any], student: Variation, *, origins: Mapping[str, str], default_origin: str
) -> list[Problem]:
    try:
        Recipe.model_validate(_values_of(values, student))
    except Misfits as misfits:
        return [Problem(default_origin, path, "does not fit together", reason) for path, reason in misfits.found]
    except ValidationError as error:
        return problems_of(error, Recipe, origins=origins, default_origin=default_origin)
    return []


def _placed(problem: Problem, student: Variation, origins: Mapping[str, str]) -> Problem:
    """The problem told of where the student's value was written, or else of the student."""
    for path, written in student.written.items():
        if problem.path == path or problem.path.startswith(f"{path}.") or path.startswith(f"{problem.path}."):
            place = f"{written}{problem.path[len(path) :]}"
            return replace(problem, path=place, origin=origin_of(place.split("."), origins) or problem.origin)
    return replace(problem, path=f"{problem.path} of student {student.name}")
