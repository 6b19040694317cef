"""What of a cache no reader looks at, and how it goes: attempts without a commit, superseded ones, leftovers."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kd_ray.cache.catalog import TARGETS, VIEWS, Catalog, Entry
from kd_ray.cache.commits import Commit
from kd_ray.cache.fold import covered_parts
from kd_ray.cache.manifest import MANIFEST
from kd_ray.cache.moments import superseded
from kd_ray.cache.records import Records, read_records
from kd_ray.cache.spec import FINGERPRINT_DIGITS
from kd_ray.cache.target_set import Output
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt, RecipeError, StorageError
from kd_ray.storage import open_storage, redacted
from kd_ray.storage.base import Stored
from kd_ray.storage.local import TEMPORARY_SUFFIX

NAMED_BY_FINGERPRINT = re.compile(rf"-[0-9a-f]{{{FINGERPRINT_DIGITS}}}$")

Inventory = Mapping[str, Stored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """An object or a folder, by its path below the cache, and why it may go; the time is that of its newest object."""

    path: str
    num_bytes: int
    modified_s: float
    reason: str


def find_garbage(catalog: Catalog, *, before_s: float) -> list[Garbage]:
    """All that was last written before `before_s` (seconds since 1970) and that no reader looks at.

    Where a record or an identity cannot be read, what it may name is left alone.
    """
    root = open_storage(catalog.uri)
    # listed before the records are read: an attempt that is committed in between is found to be named
    inventory = {**root.inventory(VIEWS), **root.inventory(TARGETS)}
    whole = {name: stored for name, stored in inventory.items() if not name.endswith(TEMPORARY_SUFFIX)}
    found = [
        _garbage(name, {name: inventory[name]}, "a write that was never finished")
        for name in inventory.keys() - whole.keys()
    ]
    found += _without_identity(catalog, whole)
    for path, entry in catalog.entries.items():
        found += _attempts(path, entry, whole, before_s=before_s)
        found += _parts(path, entry, whole)
        if isinstance(entry, Output):
            found += _superseded_moments(entry, whole)
    return sorted((each for each in found if each.modified_s < before_s), key=lambda each: each.path)


def _garbage(path: str, objects: Inventory, reason: str) -> Garbage:
    return Garbage(
        path=path,
        num_bytes=sum(each.size_bytes for each in objects.values()),
        modified_s=max((each.modified_s for each in objects.values()), default=0.0),
        reason=reason,
    )


def _without_identity(catalog: Catalog, inventory: Inventory) -> Iterator[Garbage]:
    for path in catalog.unnamed:
        objects = _below(path, inventory)
        if objects and NAMED_BY_FINGERPRINT.search(path) and not any("/commits/" in name for name in objects):
            yield _garbage(path, objects, "a folder without an identity file")


def _superseded_moments(output: Output, inventory: Inventory) -> Iterator[Garbage]:
    for name in superseded(output):
        path = f"{TARGETS}/{output.target_set.folder}/{name}"
        if path in inventory:
            yield _garbage(path, {path: inventory[path]}, "second moments that have been folded into others")


def _below(path: str, inventory: Inventory) -> dict[str, Stored]:
    return {name: stored for name, stored in inventory.items() if name.startswith(f"{path}/")}


def _attempts(path: str, entry: Entry, inventory: Inventory, *, before_s: float) -> Iterator[Garbage]:
    objects_of: dict[tuple[Unit, str], dict[str, Stored]] = defaultdict(dict)
    for name, stored in _below(f"{path}/units", inventory).items():
        unit_id, _, rest = name.removeprefix(f"{path}/units/").partition("/")
        attempt, _, inside = rest.partition("/")
        try:
            unit = Unit.from_id(unit_id)
        except ValueError:
            continue
        if inside:
            objects_of[unit, attempt][name] = stored
    records = read_records(entry.collection)
    standing: dict[Unit, dict[str, int] | None] = {}
    for (unit, attempt), objects in objects_of.items():
        if unit not in standing:
            standing[unit] = _named_attempts(entry, records, unit)
        named = standing[unit]
        if named is None or (attempt in named and named[attempt] == max(named.values())):
            continue
        attempt_path = f"{path}/units/{unit.id}/{attempt}"
        if attempt not in named:
            yield _garbage(attempt_path, objects, "an attempt that no commit names")
            continue
        newest = records.newest[unit]
        record = inventory.get(f"{path}/commits/{unit.id}.{newest.generation}.json")
        if record is not None and record.modified_s < before_s and _is_whole(path, newest, inventory):
            yield _garbage(attempt_path, objects, f"superseded by generation {newest.generation}")


def _parts(path: str, entry: Entry, inventory: Inventory) -> Iterator[Garbage]:
    """Parts of a manifest whose commits are in a larger one, too; none where a part cannot be read."""
    collection = entry.collection
    try:
        covered = covered_parts(collection.manifests.read().parts)
    except (CacheCorrupt, StorageError):
        return
    for name in sorted(covered):
        below = f"{path}{name.removeprefix(collection.folder)}"
        if below in inventory:
            yield _garbage(below, {below: inventory[below]}, "folded into a larger part")


def _named_attempts(entry: Entry, records: Records, unit: Unit) -> dict[str, int] | None:
    """The attempts that commits of the unit name, with the newest generation of each; None where one is unreadable."""
    named: dict[str, int] = {}
    for generation in records.generations.get(unit, ()):
        try:
            named[entry.collection.read(unit, generation).attempt] = generation
        except (CacheCorrupt, StorageError, FileNotFoundError):
            return None
    return named


def _is_whole(path: str, commit: Commit, inventory: Inventory) -> bool:
    """Whether all objects of a commit are there with their sizes."""
    folder = f"{path}/units/{commit.unit.id}/{commit.attempt}"
    sizes = {name: size for name, (size, _) in commit.objects.items()}
    return all(
        (stored := inventory.get(f"{folder}/{name}")) is not None and stored.size_bytes == size
        for name, size in sizes.items()
    )


def whole_target_set(catalog: Catalog, name: str) -> list[Garbage]:
    """One target set with all its outputs, and its views where no other target set may use them.

    Raises:
        RecipeError: `name` is none of the target sets, or several.
    """
    paths = [name] if name in catalog.target_sets else [path for path in catalog.target_sets if name in path]
    if len(paths) != 1:
        raise RecipeError(
            f"{redacted(catalog.uri)}: --target-set {name} may be {', '.join(paths) or 'none'} of "
            f"{', '.join(catalog.target_sets) or 'nothing'}. Give one of these names."
        )
    (path,) = paths
    root = open_storage(catalog.uri)
    found = [_garbage(path, root.inventory(path), "the target set that was asked for")]
    fingerprint = catalog.target_sets[path].identity["view_set"]
    others = [spec for other, spec in catalog.target_sets.items() if other != path]
    is_any_unreadable = any(f"/{TARGETS}/" in each.location for each in catalog.findings)
    is_any_unreadable |= any(each.startswith(f"{TARGETS}/") for each in catalog.unnamed)
    if is_any_unreadable or any(spec.identity["view_set"] == fingerprint for spec in others):
        return found
    views = (view_path for view_path, each in catalog.view_sets.items() if each.spec.fingerprint == fingerprint)
    return found + [_garbage(each, root.inventory(each), "views that no other target set uses") for each in views]


def remove_garbage(uri: str, garbage: Sequence[Garbage]) -> None:
    """Remove everything named; of a whole folder its manifests and then its commits first, so that readers never find
    half of a unit.
    """
    root = open_storage(uri)
    for each in garbage:
        for folder in (MANIFEST, "commits"):
            names = root.list(each.path)
            for place in sorted({name.split(f"/{folder}/")[0] for name in names if f"/{folder}/" in name}):
                root.remove(f"{place}/{folder}")
        root.remove(each.path)
