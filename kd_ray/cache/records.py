"""The commit records of one collection with all their generations, damaged ones set aside."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kd_ray.cache.commits import Collection, Commit, parse_commit_name
from kd_ray.cache.findings import Finding
from kd_ray.cache.manifest import MANIFEST, NUM_READERS, Row
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt, StorageError
from kd_ray.storage.base import Stored
from kd_ray.storage.local import TEMPORARY_SUFFIX

REPAIR = "Run kd-ray cache repair with the recipe it was made by; it computes this unit again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """`newest` has the readable newest commit of each unit; `generations` those of every unit, ascending.

    A unit whose newest record cannot be read is not in `newest`, as an older one does not count.
    """

    newest: Mapping[Unit, Commit]
    generations: Mapping[Unit, tuple[int, ...]]
    newest_s: float | None
    findings: tuple[Finding, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all objects of the newest commits."""
        return sum(each.num_bytes for each in self.newest.values())

    @property
    def num_views(self) -> int:
        """Rows times views of the newest commits."""
        return sum(each.num_rows * each.unit.num_views for each in self.newest.values())


def read_records(
    collection: Collection, *, listed: Mapping[str, Stored] | None = None, use_manifests: bool = False
) -> Records:
    """All commit records of a collection; `listed` is what a listing has found in `commits/`, if one was made.

    With `use_manifests` those that are folded are taken from there, without their statistics.
    """
    if listed is None:
        listed = collection.storage.inventory(f"{collection.folder}/commits")
    # a record that is being written, or that a killed writer did not finish, is none yet
    listed = {name: each for name, each in listed.items() if not name.endswith(TEMPORARY_SUFFIX)}
    generations: dict[Unit, list[int]] = {}
    findings = []
    rows: Mapping[Unit, Row] = {}
    if use_manifests:
        try:
            rows = collection.manifests.read().rows
        except (CacheCorrupt, StorageError) as error:
            findings.append(Finding.of(error, location=f"{collection.location(collection.folder)}/{MANIFEST}"))
    for name in listed:
        try:
            unit, generation = parse_commit_name(name)
        except ValueError:
            location = collection.location(name)
            findings.append(Finding(location=location, problem="is not the name of a commit record. Remove the file."))
        else:
            generations.setdefault(unit, []).append(generation)

    def read(unit: Unit) -> Commit | Finding:
        generation = max(generations[unit])
        row = rows.get(unit)
        if row is not None and row.generation == generation:
            return Commit.from_row(row, location=f"{collection.location(collection.folder)}/{MANIFEST}")
        try:
            return collection.read(unit, generation)
        except (CacheCorrupt, StorageError, FileNotFoundError) as error:
            location = collection.location(collection.commit_name(unit, generation))
            cause = (
                str(error)
                .removeprefix(f"{location}: ")
                .removesuffix("Run kd-ray cache repair with this recipe.")
                .rstrip()
            )
            return Finding(location=location, problem=f"{cause} {REPAIR}", unit=unit)

    units = sorted(generations)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        read_units = dict(zip(units, pool.map(read, units), strict=True))
    return Records(
        newest={unit: each for unit, each in read_units.items() if isinstance(each, Commit)},
        generations={unit: tuple(sorted(each)) for unit, each in generations.items()},
        newest_s=max((each.modified_s for each in listed.values()), default=None),
        findings=(*findings, *(each for each in read_units.values() if isinstance(each, Finding))),
    )
