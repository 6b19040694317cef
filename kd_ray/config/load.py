"""From a recipe file and `key=value` overrides to a validated `Recipe`, with every mistake reported in one pass."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kd_ray.config.base import Misfits
from kd_ray.config.interpolation import UNKNOWN, fill_in
from kd_ray.config.layers import POLICY, beyond, merged
from kd_ray.config.presets import names_preset, with_preset
from kd_ray.config.problems import Problem, describe, origin_of, problems_of
from kd_ray.config.recipe import Recipe
from kd_ray.config.students import mistakes_of_students
from kd_ray.errors import RecipeError

COMMAND_LINE = "command line"


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, with `extends`, `${interpolation}` and dotted `key=value` overrides resolved.

    Raises:
        RecipeError: everything that is wrong with it: file and line, dotted path, what was got, what is allowed.
    """
    layers, origins, problems = _read_with_bases(path, seen=())
    values: Any = {}
    for layer in layers:
        values = _laid_over(values, layer, problems, origins=origins, default_origin=str(path))
    for override in overrides:
        keys, value, problem = _parse_override(override, values)
        if problem is not None:
            problems.append(problem)
            continue
        layer = _nested(keys, value)
        values = _laid_over(values, layer, problems, origins={}, default_origin=COMMAND_LINE)
        dotted = ".".join(keys)
        if not isinstance(value, dict):  # replaced whole, and all that was written inside it
            origins = {key: origin for key, origin in origins.items() if not key.startswith(f"{dotted}.")}
        for key in _dotted_paths(layer):
            # a section of which one value was overridden stays where it was written
            if key not in origins or key == dotted or key.startswith(f"{dotted}."):
                origins[key] = COMMAND_LINE
    filled, unresolved = fill_in(values, origins=origins, default_origin=str(path))
    return recipe_from_values(filled, origins=origins, default_origin=str(path), problems=[*problems, *unresolved])


def recipe_from_values(
    values: dict[str, Any],
    *,
    origins: dict[str, str],
    default_origin: str,
    problems: Sequence[Problem] = (),
) -> Recipe:
    """Validate plain values; `origins` maps dotted paths to where each was written.

    Raises:
        RecipeError: as `load_recipe`.
    """
    found = list(problems)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        invalid = problems_of(error, Recipe, origins=origins, default_origin=default_origin)
        found += [each for each in invalid if UNKNOWN not in str(each)]  # echoes of a mistake already listed
    of_students = mistakes_of_students(values, origins=origins, default_origin=default_origin, known=found)
    found += [each for each in of_students if UNKNOWN not in str(each)]
    if found:
        raise RecipeError(describe(found))
    return recipe


def _laid_over(
    values: Any, layer: Any, problems: list[Problem], *, origins: dict[str, str], default_origin: str
) -> Any:
    """`merged`; a layer with a wrong index is left out, and told among the `problems`."""
    try:
        return merged(values, layer)
    except Misfits as error:
        for dotted, reason in error.found:
            origin = origin_of(dotted.split("."), origins) or default_origin
            problems.append(Problem(origin, dotted, f"got index {dotted.rpartition('.')[2]}", reason))
        return values


def _read_with_bases(path: Path, *, seen: tuple[Path, ...]) -> tuple[list[Any], dict[str, str], list[Problem]]:
    """The layers of a recipe, the furthest base first, where each path was last written, and keys given twice."""
    if path.resolve() in seen:
        chain = " -> ".join(str(each) for each in (*seen, path))
        raise RecipeError(f"{path}: extends itself ({chain}). Remove one `extends`.")
    try:
        text = path.read_text(encoding="utf-8")
        own = yaml.safe_load(text)
        lines, repeated = _line_numbers(text)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe.{_similar_files(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        # without the line itself, which the error quotes: it may hold a secret
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}"
        problem = getattr(error, "problem", None) or type(error).__name__
        raise RecipeError(f"{where}: is not valid YAML: {problem}. Correct the line.") from None
    if not isinstance(own, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, got {type(own).__name__}.")
    layers: list[Any] = []
    origins: dict[str, str] = {}
    problems = [
        Problem(f"{path}:{second}", dotted, "is given twice", f"line {first} has it already; keep one")
        for dotted, first, second in repeated
    ]
    for base in _bases(path, own.pop("extends", None)):
        base_layers, base_origins, base_problems = _read_with_bases(path.parent / base, seen=(*seen, path.resolve()))
        layers += base_layers
        origins |= base_origins
        problems += base_problems
    origins |= {dotted: f"{path}:{line}" for dotted, line in lines.items()}
    return [*layers, own], origins, problems


def _bases(path: Path, extends: Any) -> list[str]:
    match extends:
        case None:
            return []
        case str():
            return [extends]
        case list() if all(isinstance(base, str) for base in extends):
            return extends
        case _:
            raise RecipeError(f"{path}: extends: got {extends!r}; give the path of a recipe or a list of them.")


def _parse_override(override: str, values: Any) -> tuple[list[str], Any, Problem | None]:
    """The keys and the value of `a.b=value`; a `Problem` where it is not that, or points past the end of a list."""
    key, separator, text = override.partition("=")
    keys = key.strip().split(".")
    if not separator or not all(keys):
        got = "got no key" if separator else "got no value"
        return [], None, Problem(COMMAND_LINE, override, got, "write key=value, e.g. train.epochs=10")
    for part in keys:
        if isinstance(values, list | tuple) and part.isdigit() and int(part) > len(values):
            return [], None, Problem(COMMAND_LINE, key, f"got index {part}", beyond(len(values)))
        values = _inside(values, part)
    try:
        value = yaml.safe_load(text) if text else ""
        # to YAML " #" begins a comment; on a command line it is part of a path
        return keys, text if isinstance(value, str) and text[:1] not in ("'", '"') else value, None
    except yaml.YAMLError:
        return keys, text, None


def _inside(value: Any, key: str) -> Any:
    if isinstance(value, list | tuple):
        return value[int(key)] if key.isdigit() and int(key) < len(value) else None
    inner = value.get(key) if isinstance(value, dict) else None
    return with_preset(inner) if key == POLICY and names_preset(inner) else inner


def _nested(keys: Sequence[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _dotted_paths(value: Any, prefix: str = "") -> list[str]:
    """Every dotted path inside `value`, sections included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    paths = [prefix] if prefix else []
    for key, inner in items:
        paths += _dotted_paths(inner, f"{prefix}.{key}" if prefix else str(key))
    return paths


def _line_numbers(text: str) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """The line on which each dotted path of a YAML text begins, counted from 1, and the paths given on two lines."""
    found: dict[str, int] = {}
    repeated: list[tuple[str, int, int]] = []

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            own: set[str] = set()
            for key, value in node.value:
                dotted = f"{prefix}.{key.value}" if prefix else str(key.value)
                if key.value in own:  # YAML would let the last one win
                    repeated.append((dotted, found[dotted], key.start_mark.line + 1))
                own.add(key.value)
                found[dotted] = key.start_mark.line + 1
                walk(value, dotted)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[f"{prefix}.{index}"] = value.start_mark.line + 1
                walk(value, f"{prefix}.{index}")

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return found, repeated


def _similar_files(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [each.name for each in path.parent.glob("*.yaml")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / close[0]}?" if close else f" There are: {', '.join(sorted(names)) or 'none'}."
