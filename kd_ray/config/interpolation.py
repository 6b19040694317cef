"""Filling in `${interpolation}`, and keys that a recipe leaves open (`???`), with every failure reported."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd_ray.config.problems import Problem, origin_of
from kd_ray.errors import RecipeError

OPEN = "???"  # OmegaConf's own mark
UNKNOWN = "<not known yet>"  # stands for a value that a reported mistake leaves open, so that the rest can be checked


def fill_in(values: Any, *, origins: Mapping[str, str], default_origin: str) -> tuple[dict[str, Any], list[Problem]]:
    """`values` with every interpolation resolved; what cannot be is UNKNOWN and has a `Problem`.

    Raises:
        RecipeError: a value is of a kind that no recipe has, such as a date.
    """
    problems = []
    unknown: set[str] = set()

    def report(path: str, got: str, allowed: str) -> None:
        unknown.add(path)
        problems.append(Problem(origin_of(path.split("."), origins) or default_origin, path, got, allowed))

    for path, value in _leaves(values):
        if value == OPEN:
            report(path, f"is left open ({OPEN})", f"give it as {path}=… or in a recipe that extends this one")
    texts = {path: value for path, value in _leaves(values) if isinstance(value, str) and "${" in value}
    while True:
        try:
            filled = OmegaConf.to_container(OmegaConf.create(_without(values, unknown)), resolve=True)
        except OmegaConfBaseException as error:
            path = re.sub(r"\[(\w+)\]", r".\1", str(error.full_key or ""))
            reason = str(error).splitlines()[0].rstrip(".")
            if path not in texts or path in unknown:
                raise RecipeError(f"{default_origin}: {path}: {reason}.") from error
            report(path, f"got {texts[path]!r}", reason)
            continue
        assert isinstance(filled, dict)
        return {str(key): value for key, value in filled.items()}, problems


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for key, inner in items:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def _without(value: Any, unknown: set[str], path: str = "") -> Any:
    """A copy of `value` with UNKNOWN at the paths of `unknown`."""
    if path in unknown:
        return UNKNOWN
    if isinstance(value, dict):
        return {key: _without(inner, unknown, f"{path}.{key}" if path else str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, unknown, f"{path}.{index}") for index, inner in enumerate(value)]
    return value
