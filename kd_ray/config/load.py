"""From a recipe file and `key=value` overrides to a validated `Recipe`, with every mistake reported in one pass."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from kd_ray.config.problems import Problem, describe, problems_of
from kd_ray.config.recipe import Recipe
from kd_ray.errors import RecipeError

COMMAND_LINE = "command line"


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, with `extends`, `${interpolation}` and dotted `key=value` overrides resolved.

    Raises:
        RecipeError: everything that is wrong with it: file and line, dotted path, what was got, what is allowed.
    """
    layers, origins = _read_with_bases(path, seen=())
    problems: list[Problem] = []
    for override in overrides:
        layer, problem = _parse_override(override)
        if problem is not None:
            problems.append(problem)
            continue
        layers.append(layer)
        origins.update(dict.fromkeys(_dotted_paths(layer), COMMAND_LINE))
    values = _resolve(path, layers)
    return recipe_from_values(values, origins=origins, default_origin=str(path), problems=problems)


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
        found += problems_of(error, Recipe, origins=origins, default_origin=default_origin)
    if found:
        raise RecipeError(describe(found))
    return recipe


def _read_with_bases(path: Path, *, seen: tuple[Path, ...]) -> tuple[list[Any], dict[str, str]]:
    """The layers of a recipe, the furthest base first, and where each dotted path was last written."""
    if path.resolve() in seen:
        chain = " -> ".join(str(each) for each in (*seen, path))
        raise RecipeError(f"{path}: extends itself ({chain}). Remove one `extends`.")
    try:
        text = path.read_text()
        own = yaml.safe_load(text)
        lines = _line_numbers(text)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe.{_similar_files(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(own, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, got {type(own).__name__}.")
    bases = own.pop("extends", [])
    layers: list[Any] = []
    origins: dict[str, str] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        base_layers, base_origins = _read_with_bases(path.parent / base, seen=(*seen, path.resolve()))
        layers += base_layers
        origins |= base_origins
    origins |= {dotted: f"{path}:{line}" for dotted, line in lines.items()}
    return [*layers, own], origins


def _parse_override(override: str) -> tuple[Any, Problem | None]:
    key, separator, value = override.partition("=")
    if not separator or not key:
        return {}, Problem(COMMAND_LINE, override, "got no value", "key=value, e.g. train.epochs=10")
    try:
        parsed = yaml.safe_load(value) if value else ""
    except yaml.YAMLError:
        parsed = value
    layer: Any = parsed
    for part in reversed(key.split(".")):
        layer = {part: layer}
    return layer, None


def _resolve(path: Path, layers: list[Any]) -> dict[str, Any]:
    try:
        merged: Any = {}
        for layer in layers:
            merged = _merge(merged, layer)
        values = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}.") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _merge(base: Any, layer: Any) -> Any:
    """`layer` over `base`: mappings key by key, lists by index where the layer says so (`losses.0.weight=2`)."""
    if isinstance(base, list) and isinstance(layer, dict) and all(str(key).isdigit() for key in layer):
        return _merge_into_list(base, layer)
    if not (isinstance(base, dict) and isinstance(layer, dict)):
        return layer
    merged = dict(base)
    for key, value in layer.items():
        merged[key] = _merge(base[key], value) if key in base else value
    return merged


def _merge_into_list(base: list[Any], layer: dict[Any, Any]) -> list[Any]:
    merged = list(base)
    for key, value in sorted(layer.items(), key=lambda item: int(item[0])):
        if int(key) < len(merged):
            merged[int(key)] = _merge(merged[int(key)], value)
        else:
            merged.append(value)
    return merged


def _dotted_paths(value: Any, prefix: str = "") -> list[str]:
    """Every dotted path inside `value`, sections included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    paths = [prefix] if prefix else []
    for key, inner in items:
        paths += _dotted_paths(inner, f"{prefix}.{key}" if prefix else str(key))
    return paths


def _line_numbers(text: str) -> dict[str, int]:
    """The line on which each dotted path of a YAML text begins, counted from 1."""
    found: dict[str, int] = {}

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                dotted = f"{prefix}.{key.value}" if prefix else str(key.value)
                found[dotted] = key.start_mark.line + 1
                walk(value, dotted)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[f"{prefix}.{index}"] = value.start_mark.line + 1
                walk(value, f"{prefix}.{index}")

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return found


def _similar_files(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [each.name for each in path.parent.glob("*.yaml")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / close[0]}?" if close else f" There are: {', '.join(sorted(names)) or 'none'}."
