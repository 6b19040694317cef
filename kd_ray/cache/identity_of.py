"""The whole identity behind one folder of a cache, with those that it only names by fingerprint written out."""

from typing import Any

from kd_ray.cache.catalog import Catalog
from kd_ray.cache.spec import Spec
from kd_ray.errors import RecipeError
from kd_ray.storage import redacted


def identity_of(catalog: Catalog, name: str) -> tuple[str, dict[str, Any]]:
    """Path and identity of the view set, target set or output that `name` means: a path below the cache, or a part.

    Of an output, its target set's is under `target_set`; where the view set of a target set is in the cache, its
    identity stands where else its fingerprint would be.

    Raises:
        RecipeError: `name` means nothing, or several.
    """
    name = name.strip("/")
    known = [*catalog.view_sets, *catalog.target_sets, *catalog.outputs]
    found = [name] if name in known else [path for path in known if name in path]
    if len(found) != 1:
        raise RecipeError(
            f"{redacted(catalog.uri)}: {name} may be {', '.join(found) or 'none'} of {', '.join(known) or 'nothing'}. "
            "Give one of these names."
        )
    (path,) = found
    if path in catalog.view_sets:
        return path, dict(catalog.view_sets[path].spec.identity)
    if path in catalog.target_sets:
        return path, _with_views(catalog, catalog.target_sets[path])
    output = catalog.outputs[path]
    return path, {**output.spec.identity, "target_set": _with_views(catalog, output.target_set)}


def _with_views(catalog: Catalog, target_set: Spec) -> dict[str, Any]:
    fingerprint = target_set.identity["view_set"]
    views = (each.spec.identity for each in catalog.view_sets.values() if each.spec.fingerprint == fingerprint)
    return {**target_set.identity, "view_set": next(views, fingerprint)}
