"""Local paths of a recipe made absolute: workers run in other folders than the command that started them."""

from pathlib import Path
from typing import Any

from kd_ray.config.recipe import Recipe

LOCATION_KEYS = frozenset({"out", "uri", "packed_uri", "classes_uri", "images_uri", "overrides_uri", "weights"})


def with_absolute_locations(recipe: Recipe, *, base: Path) -> Recipe:
    """The recipe with every relative local location taken from `base`; URLs stay as they are."""
    return Recipe.model_validate(_absolute(recipe.model_dump(), base))


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        return {
            key: str(base / Path(inner.removeprefix("file://")).expanduser())
            if key in LOCATION_KEYS and isinstance(inner, str) and "://" not in inner.removeprefix("file://")
            else _absolute(inner, base)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_absolute(each, base) for each in value]
    return value
