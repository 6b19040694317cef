"""Every committed byte of a cache against all that is known of it: records, checksums, sample ids, views."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from kd_ray.cache.catalog import Catalog, Entry
from kd_ray.cache.check_manifest import check_manifest
from kd_ray.cache.check_unit import check_output_objects, check_view_objects
from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.findings import Finding
from kd_ray.cache.moments import read_folded
from kd_ray.cache.phi_s import PhiS
from kd_ray.cache.records import REPAIR, Records, read_records
from kd_ray.cache.target_set import Output
from kd_ray.cache.transforms import FOLDER as TRANSFORMS
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt, StorageError
from kd_ray.storage import join, open_storage

NUM_UNITS_AT_ONCE = 8  # each in memory whole, up to 96 MB an array

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was read and what was found, by the path of the view set or output; "" is the cache itself."""

    num_units: int
    num_bytes: int
    findings: Mapping[str, tuple[Finding, ...]]

    @property
    def all_findings(self) -> list[Finding]:
        """In the order of the catalog."""
        return [finding for each in self.findings.values() for finding in each]


def verify(
    catalog: Catalog, entries: Mapping[str, Entry], *, report: Progress, num_threads: int = NUM_UNITS_AT_ONCE
) -> Verification:
    """Read all that `entries` have committed; `report` is told the bytes done and those in all."""
    records = {path: read_records(entry.collection) for path, entry in entries.items()}
    findings: dict[str, list[Finding]] = {"": [*catalog.findings, *_lost_identities(catalog)]}
    for path, entry in entries.items():
        findings[path] = [*records[path].findings, *check_manifest(entry.collection, records[path])]
        if isinstance(entry, Output):
            findings[path] += _calibration_findings(entry, records[path])
            findings[path] += _derived_findings(entry)
            findings[path] += _findings_beside_views(catalog, entry, records[path], known=records)
    work = [(path, commit) for path in entries for commit in records[path].newest.values()]
    total, done = sum(each.num_bytes for each in records.values()), 0
    report(0, total)
    with ThreadPoolExecutor(num_threads) as pool:
        running = {pool.submit(check_unit, entries[path], commit): (path, commit) for path, commit in work}
        for future in as_completed(running):
            path, commit = running.pop(future)
            findings[path] += future.result()
            done += commit.num_bytes
            report(done, total)
    return Verification(
        num_units=len(work),
        num_bytes=total,
        findings={path: tuple(sorted(each, key=str)) for path, each in findings.items()},
    )


def check_unit(entry: Entry, commit: Commit) -> list[Finding]:
    """What is wrong with the objects of one committed unit, all of which are read."""
    collection = entry.collection
    objects: dict[str, bytes] = {}
    problems: list[tuple[str, str]] = []
    for name in commit.objects:
        try:
            objects[name] = collection.storage.read(collection.object_name(commit, name))
        except FileNotFoundError:
            problems.append((name, "is missing, though its unit is committed."))
        except StorageError as error:
            location = collection.location(collection.object_name(commit, name))
            problems.append((name, str(error).removeprefix(f"{location}: ")))
    if isinstance(entry, Output):
        problems += check_output_objects(entry, commit, objects)
    else:
        problems += check_view_objects(entry, commit, objects)
    return [_finding(collection, commit, name, problem) for name, problem in problems]


def _finding(collection: Collection, commit: Commit, name: str, problem: str) -> Finding:
    location = collection.location(collection.object_name(commit, name))
    return Finding(location=location, problem=f"{problem} {REPAIR}", unit=commit.unit)


def _lost_identities(catalog: Catalog) -> Iterator[Finding]:
    """Folders without an identity file are what a crash leaves, unless something has been committed in them."""
    for path in catalog.unnamed:
        storage = open_storage(join(catalog.uri, path))
        if any("commits/" in name for name in storage.list("")):
            yield Finding(
                location=storage.uri,
                problem="has commits, but its identity file is missing. Restore the file, or remove the folder.",
            )


def _calibration_findings(output: Output, records: Records) -> Iterator[Finding]:
    if not output.coding.needs_calibration:
        return
    location = output.calibration_location
    try:
        calibration = output.calibration()
    except (CacheCorrupt, StorageError) as error:
        yield Finding.of(error, location=location)
        return
    if calibration is None and records.generations:
        problem = "is missing, and no value of this output can be read without it. Restore it."
        yield Finding(location=location, problem=problem)
    elif calibration is not None and calibration.num_channels != output.shape[-1]:
        channels, expected = calibration.num_channels, output.shape[-1]
        yield Finding(location=location, problem=f"has {channels} channels, expected {expected}. Restore it.")


def _derived_findings(output: Output) -> Iterator[Finding]:
    """Of second moments and transforms."""
    for name, found in read_folded(output):
        if isinstance(found, CacheCorrupt):
            yield Finding.of(found, location=output.collection.location(name))
    storage = output.collection.storage
    for name in storage.list(f"{output.collection.folder}/{TRANSFORMS}"):
        location = output.collection.location(name)
        try:
            PhiS.from_bytes(storage.read(name), location=location)
        except CacheCorrupt as error:
            yield Finding.of(error, location=location)


def _findings_beside_views(
    catalog: Catalog, output: Output, records: Records, *, known: Mapping[str, Records]
) -> Iterator[Finding]:
    """Targets need the views they were made from: the same samples in the same units."""
    location = output.collection.location(output.collection.folder)
    views = catalog.views_of(output)
    if views is None:
        fingerprint = output.target_set.identity["view_set"][:12]
        problem = f"was made from the view set {fingerprint}, which is not readable in this cache. Restore it."
        yield Finding(location=location, problem=problem)
        return
    of_views = known.get(f"views/{views.spec.folder}") or read_records(views.collection)
    for unit, commit in records.newest.items():
        yield from _findings_beside_view(location, commit, of_views, unit)


def _findings_beside_view(location: str, commit: Commit, of_views: Records, unit: Unit) -> Iterable[Finding]:
    if unit not in of_views.generations:
        yield Finding(
            location=location,
            problem=f"unit {unit.id} has targets but no views. Run the extract stage again; it computes the views.",
        )
    elif unit in of_views.newest and of_views.newest[unit].members_digest != commit.members_digest:
        yield Finding(
            location=location,
            problem=f"unit {unit.id} was made from other samples than its views ({commit.members_digest} against "
            f"{of_views.newest[unit].members_digest}). Restore the corpus it was made from. {REPAIR}",
            unit=unit,
        )
