"""Local paths of a recipe made absolute: workers run in other folders than the command that started them."""

from pathlib import Path
from typing import Any

from kd_ray.config.recipe import Recipe

LOCATION_KEYS = frozenset(
    {"out", "uri", "packed_uri", "classes_uri", "images_uri", "overrides_uri", "weights", "repository", "program"}
)


def with_absolute_locations(recipe: Recipe, *, base: Path) -> Recipe:
    """The recipe with every relative local location taken from `base`; URLs stay as they are."""
    return Recipe.model_validate(_absolute(recipe.model_dump(), base))


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        return {
            key: _located(inner, base) if _is_location(key) else _absolute(inner, base) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_absolute(each, base) for each in value]
    return value


def _is_location(key: str) -> bool:
    """Whether the last word of a key, which in a grid is a dotted path, says that a location follows."""
    return key.rpartition(".")[2] in LOCATION_KEYS


def _located(value: Any, base: Path) -> Any:
    if isinstance(value, str) and "://" not in value.removeprefix("file://"):
        return str(base / Path(value.removeprefix("file://")).expanduser())
    if isinstance(value, list | tuple):
        return [_located(each, base) for each in value]
    return _absolute(value, base)
