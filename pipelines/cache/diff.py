"""`kd-ray cache diff`: the fields by which two folders of a cache, or of two caches, differ."""

from rich.console import Console

from kd_ray.cache.catalog import TARGETS, VIEWS, read_catalog
from kd_ray.cache.identity_of import identity_of
from kd_ray.cache.spec import differences
from kd_ray.errors import RecipeError
from pipelines.cache.told import EXIT_FOUND, print_json


def compare(old: str, new: str, *, show_all: bool, console: Console, as_json: bool) -> int:
    """Print the first difference, or all; the exit status: 0 where there is none, else EXIT_FOUND.

    Raises:
        RecipeError: one of both is no folder of a cache.
    """
    (old_path, old_identity), (new_path, new_identity) = (_identity(each) for each in (old, new))
    found = list(differences(old_identity, new_identity))
    told = found if show_all else found[:1]
    if as_json:
        fields = [{"field": path, "old": before, "new": after} for path, before, after in told]
        print_json({"old": old_path, "new": new_path, "num_differences": len(found), "differences": fields})
    elif not found:
        console.print("no difference: both are made from the same", highlight=False)
    else:
        for path, before, after in told:
            console.print(f"{path}: {before!r} -> {after!r}", markup=False, highlight=False, soft_wrap=True)
        if len(found) > len(told):
            console.print(f"and {len(found) - len(told)} more (--all shows them)", highlight=False)
    return EXIT_FOUND if found else 0


def _identity(location: str) -> tuple[str, dict[str, object]]:
    """Of a location such as `out/cache/targets/teacher-0123456789ab`; the cache is what lies before."""
    parts = location.rstrip("/").split("/")
    for number in range(len(parts) - 1, -1, -1):
        if parts[number] in (VIEWS, TARGETS):
            cache_uri = "/".join(parts[:number]) or ("/" if location.startswith("/") else ".")
            return identity_of(read_catalog(cache_uri), "/".join(parts[number:]))
    raise RecipeError(
        f"{location}: got no folder of a cache, expected one such as out/cache/targets/teacher-0123456789ab/… or "
        "out/cache/views/…. kd-ray cache ls gives their names."
    )
