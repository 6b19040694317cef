"""The manifest of one collection against its records."""

from collections.abc import Iterator, Mapping, Sequence

from kd_ray.cache.catalog import Catalog
from kd_ray.cache.commits import Collection
from kd_ray.cache.findings import Finding
from kd_ray.cache.fold import fold
from kd_ray.cache.manifest import STRAY, Part
from kd_ray.cache.records import Records
from kd_ray.errors import CacheCorrupt, StorageError

REMEDY = "Nothing is lost: run kd-ray cache repair with the recipe it was made by, or remove the file."


def check_manifest(collection: Collection, records: Records | None) -> Iterator[Finding]:
    """Parts that are not what their names tell, or, where `records` are given, say something else than these."""
    manifests = collection.manifests
    listing = manifests.listing()
    for name in listing.strays:
        yield Finding(location=collection.location(name), problem=STRAY)
    for name in (*listing.records, *listing.statistics):
        location = collection.location(name)
        try:
            part = manifests.read_part(name)
        except FileNotFoundError:  # merged into another since it was listed
            continue
        except (CacheCorrupt, StorageError) as error:
            yield Finding.of(error, location=location)
            continue
        problem = None if records is None else _contradiction(part, records, of_statistics=name in listing.statistics)
        if problem is not None:
            yield Finding(location=location, problem=f"{problem} {REMEDY}")


def fold_again(catalog: Catalog, findings: Mapping[str, Sequence[Finding]]) -> set[Finding]:
    """Remove every manifest that has a bad part, and fold it anew from the records; the findings that this mends."""
    mended: set[Finding] = set()
    for path, entry in catalog.entries.items():
        collection = entry.collection
        folders = tuple(f"{collection.location(folder)}/" for folder in collection.manifests.part_folders)
        bad = {each for each in findings.get(path, ()) if each.location.startswith(folders)}
        if bad:
            collection.manifests.remove_parts()
            fold(collection, collection.newest_generations())
        mended |= bad
    return mended


def _contradiction(part: Part, records: Records, *, of_statistics: bool) -> str | None:
    """The first thing that a part says and the records do not; of superseded commits, that they exist."""
    for row in part.rows:
        if row.generation not in records.generations.get(row.unit, ()):
            return f"has {row.unit.id} in generation {row.generation}, of which there is no record."
        commit = records.newest.get(row.unit)
        if commit is not None and commit.generation == row.generation and commit.rows()[of_statistics] != row:
            return f"says something else of {row.unit.id} than its record."
    return None
