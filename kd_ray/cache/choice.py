"""Which outputs of a cache are meant by the names that a person gives. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_ray.cache.target_set import Output
from kd_ray.cache.view_store import ViewStore
from kd_ray.corpus.source import SplitName
from kd_ray.errors import RecipeError
from kd_ray.storage import redacted

if TYPE_CHECKING:
    from kd_ray.cache.opened import TargetSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Outputs of one view set by (teacher, output), under the names by which they were asked for.

    `has_several_teachers` where they were asked for as several, be it one.
    """

    views: ViewStore
    outputs: Mapping[tuple[str, str], Output]
    has_several_teachers: bool


def choose(
    uri: str,
    target_sets: Mapping[str, "TargetSet"],
    *,
    teacher: str | Sequence[str] | None,
    outputs: Sequence[str] | None,
    views: str | None,
    split: SplitName,
) -> Chosen:
    """The outputs of one view set that are meant; see `OpenedCache.torch_dataset`.

    Raises:
        RecipeError: a name means nothing, or several.
    """
    where = redacted(uri)
    usable = {
        folder: each
        for folder, each in target_sets.items()
        if each.split == split and (views is None or views in each.views.spec.folder)
    }
    if not usable:
        told = ", ".join(f"{folder} (views {each.views.spec.folder})" for folder, each in target_sets.items())
        asked = f"split {split!r}" if views is None else f"split {split!r} with views {views!r}"
        raise RecipeError(f"{where}: holds no targets of {asked}. It holds {told or 'none'}. Correct split or views.")
    names: Sequence[str | None] = [teacher] if teacher is None or isinstance(teacher, str) else teacher
    if not names:
        raise RecipeError(f"{where}: teacher is an empty list. Give names, or leave it out.")
    found = {name or each.teacher: each for name in names for each in [_one(where, usable, name)]}
    view_sets = {each.views.spec.folder: each.views for each in found.values()}
    if len(view_sets) > 1:
        raise RecipeError(
            f"{where}: {', '.join(found)} saw different views ({', '.join(view_sets)}). Give views, the name of one of "
            "these, or a dataset to each."
        )
    return Chosen(
        views=next(iter(view_sets.values())),
        outputs={
            (name, output): stored
            for name, each in found.items()
            for output, stored in _outputs(f"{where}: {each.spec.folder}", each.outputs, outputs).items()
        },
        has_several_teachers=not (teacher is None or isinstance(teacher, str)),
    )


def _one(where: str, usable: Mapping[str, "TargetSet"], name: str | None) -> "TargetSet":
    found = {folder: each for folder, each in usable.items() if name is None or name in (each.teacher, folder)}
    if len(found) == 1:
        return next(iter(found.values()))
    listed = ", ".join(f"{folder} (views {each.views.spec.folder})" for folder, each in (found or usable).items())
    if not found:
        raise RecipeError(f"{where}: no teacher is called {name!r}. There are {listed}. Give one of these as teacher.")
    asked = "several target sets" if name is None else f"several target sets of teacher {name!r}"
    raise RecipeError(
        f"{where}: holds {asked}: {listed}. Give one of these as teacher, or a part of the name of its views as views."
    )


def _outputs(where: str, stored: Mapping[str, Output], names: Sequence[str] | None) -> dict[str, Output]:
    if isinstance(names, str):
        raise RecipeError(f"{where}: outputs is {names!r}, a word; give a list of names: [{names!r}].")
    listed = ", ".join(stored)
    wanted = list(names) if names is not None else sorted({each.spec.name for each in stored.values()})
    if not wanted:
        raise RecipeError(f"{where}: outputs is an empty list. Give some of {listed}, or leave it out.")
    found = {}
    for name in wanted:
        meant = [each for folder, each in stored.items() if name in (each.spec.name, folder)]
        if len(meant) != 1:
            what = "is stored in several ways" if meant else "is not stored"
            raise RecipeError(f"{where}: output {name!r} {what}. There are {listed}. Give some of these as outputs.")
        found[name] = meant[0]
    return found
