"""`kd-ray cache diff`: the fields by which folders of caches differ, or what a recipe makes differs from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kd_ray.cache.catalog import TARGETS, VIEWS, read_catalog
from kd_ray.cache.identity_of import identity_of
from kd_ray.cache.spec import differences
from kd_ray.errors import RecipeError
from pipelines.cache.told import EXIT_FOUND, print_json

RECIPE_SUFFIXES = (".yaml", ".yml")
NO_DIFFERENCE = "no difference: both are made from the same"

Difference = tuple[str, Any, Any]
Identity = tuple[str, dict[str, Any]]
"""A path below a cache, and what lies there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One argument; `one` is the folder that it is, and is None of a recipe or a whole cache, which have `all`."""

    given: str
    is_recipe: bool
    all: tuple[Identity, ...]
    one: Identity | None

    def like(self, path: str) -> list[Identity]:
        """View sets for a view set, target sets for one, outputs for one."""
        return [each for each in self.all if _kind(each[0]) == _kind(path)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two paths, and how what lies there differs; one is None where its side has nothing like the other."""

    old: str | None
    new: str | None
    found: tuple[Difference, ...]

    @property
    def differs(self) -> bool:
        return bool(self.found) or None in (self.old, self.new)

    def to_json(self, *, show_all: bool) -> dict[str, Any]:
        """As `--json` gives it."""
        told = self.found if show_all else self.found[:1]
        fields = [{"field": path, "old": before, "new": after} for path, before, after in told]
        return {"old": self.old, "new": self.new, "num_differences": len(self.found), "differences": fields}


def compare(
    old: str, new: str, *, overrides: Sequence[str] = (), show_all: bool, console: Console, as_json: bool
) -> int:
    """Print the first difference, or all; the exit status: 0 where there is none, else EXIT_FOUND.

    Raises:
        RecipeError: one of both is neither a folder of a cache nor a recipe; or a whole cache without a recipe beside.
    """
    sides = _side(old, overrides), _side(new, overrides)
    pairs = _pairs(*sides)
    is_single = any(side.one is not None for side in sides)
    if as_json:
        told = [each.to_json(show_all=show_all) for each in pairs]
        print_json(told[0] if is_single else {"pairs": told})
    else:
        for pair in pairs:
            _tell(pair, sides, named=any(side.one is None for side in sides), show_all=show_all, console=console)
    return EXIT_FOUND if any(each.differs for each in pairs) else 0


def _pairs(old: Side, new: Side) -> list[Pair]:
    """One where a folder is given; else each of the recipe's, the first of two, with what is nearest to it."""
    if old.one is not None and new.one is not None:
        return [_pair(old.one, new.one)]
    if old.one is not None:
        return [_nearest(old.one, new)]
    if new.one is not None:
        return [_reversed(_nearest(new.one, old))]
    if not old.is_recipe and not new.is_recipe:
        raise RecipeError(
            f"{new.given}: got two whole caches, expected a folder such as {new.given}/targets/teacher-0123456789ab of "
            "each, or a recipe for one of them. kd-ray cache ls gives the names of folders."
        )
    if old.is_recipe:
        return [_nearest(each, new) for each in _told_once(old)]
    return [_reversed(_nearest(each, old)) for each in _told_once(new)]


def _told_once(side: Side) -> Iterator[Identity]:
    """View sets and outputs: what differs of a target set differs of its outputs."""
    return (each for each in side.all if _kind(each[0]) != (TARGETS, 2))


def _nearest(identity: Identity, side: Side) -> Pair:
    """The pair with the fewest differences; of outputs, with one of the same name where there is one."""
    path, value = identity
    candidates = side.like(path)
    same = [each for each in candidates if each[1].get("output") == value.get("output")]
    if not candidates:
        return Pair(old=path, new=None, found=())
    return min((_pair(identity, each) for each in same or candidates), key=lambda pair: len(pair.found))


def _pair(old: Identity, new: Identity) -> Pair:
    return Pair(old=old[0], new=new[0], found=tuple(differences(old[1], new[1])))


def _reversed(pair: Pair) -> Pair:
    return Pair(old=pair.new, new=pair.old, found=tuple((path, after, before) for path, before, after in pair.found))


def _kind(path: str) -> tuple[str, int]:
    parts = path.split("/")
    return parts[0], len(parts)


def _tell(pair: Pair, sides: tuple[Side, Side], *, named: bool, show_all: bool, console: Console) -> None:
    if named:
        told = [
            f"{side.given}: {path}" if path is not None else f"{side.given}: has nothing like it"
            for side, path in zip(sides, (pair.old, pair.new), strict=True)
        ]
        console.print(" -> ".join(told), markup=False, highlight=False, soft_wrap=True)
    if not pair.differs:
        console.print(NO_DIFFERENCE, highlight=False)
    for path, before, after in pair.found if show_all else pair.found[:1]:
        console.print(f"{path}: {before!r} -> {after!r}", markup=False, highlight=False, soft_wrap=True)
    if len(pair.found) > 1 and not show_all:
        console.print(f"and {len(pair.found) - 1} more (--all shows them)", highlight=False)


def _side(location: str, overrides: Sequence[str]) -> Side:
    """A recipe; or a location such as `out/cache/targets/teacher-0123456789ab`, whose cache is what lies before; or a
    cache itself.
    """
    if location.endswith(RECIPE_SUFFIXES):
        return Side(given=location, is_recipe=True, all=_of_recipe(location, overrides), one=None)
    parts = location.rstrip("/").split("/")
    for number in range(len(parts) - 1, -1, -1):
        if parts[number] in (VIEWS, TARGETS):
            cache_uri = "/".join(parts[:number]) or ("/" if location.startswith("/") else ".")
            identity = identity_of(read_catalog(cache_uri), "/".join(parts[number:]))
            return Side(given=location, is_recipe=False, all=(identity,), one=identity)
    catalog = read_catalog(location)
    paths = [*catalog.view_sets, *catalog.target_sets, *catalog.outputs]
    return Side(given=location, is_recipe=False, all=tuple(identity_of(catalog, path) for path in paths), one=None)


def _of_recipe(location: str, overrides: Sequence[str]) -> tuple[Identity, ...]:
    from kd_ray.config.load import load_recipe
    from kd_ray.config.locations import with_absolute_locations
    from kd_ray.extraction.identities import identities_of
    from pipelines.cache.recipe_plan import plan_of

    recipe = with_absolute_locations(load_recipe(Path(location), overrides), base=Path.cwd())
    _, plan = plan_of(recipe)
    return tuple(identities_of(plan.all).items())
