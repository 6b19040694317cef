"""Folding commits into manifests, as a log-structured merge: many small parts first, then ever larger ones.

Any number of processes may fold one collection at once: parts are named by their content, a part is removed after those
that hold its rows exist, and what is folded twice is the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.manifest import NUM_READERS, RECORDS, STATISTICS, Manifest, Part, Row, newest_rows, part_size
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt

FOLD_EVERY = 512  # commits; at D = 1536 their statistics make a part of 25 MB
MAX_PART_BYTES = 32 << 20  # far below what s3fs uploads in several requests
GROWTH = 2  # a part is merged with those that are smaller once they hold 1 / GROWTH of its rows


def fold(collection: Collection, newest: Mapping[Unit, int], *, held: Mapping[Unit, int] | None = None) -> int:
    """Fold the commits `newest` (generation by unit) but those that are `held` already, by default as the manifest
    says; how many were.

    A record that cannot be read stays where it is, and is named by whoever needs it.

    Raises:
        CacheCorrupt: a part that is there already is damaged.
    """
    if held is None:
        held = folded_generations(collection.manifests.read())
    fresh = sorted(unit for unit, generation in newest.items() if held.get(unit, -1) < generation)
    folded = 0
    for units in (fresh[start : start + FOLD_EVERY] for start in range(0, len(fresh), FOLD_EVERY)):
        with ThreadPoolExecutor(NUM_READERS) as pool:
            read = pool.map(lambda unit: _readable(collection, unit, newest[unit]), units)
            pairs = [commit.rows() for commit in read if commit is not None]
        # statistics first: where the records are folded, so are these
        for part in _cut([statistics for _, statistics in pairs if statistics is not None]):
            collection.manifests.write(STATISTICS, part)
        for part in _cut([record for record, _ in pairs]):
            collection.manifests.write(RECORDS, part)
        folded += len(pairs)
    merge(collection, collection.manifests.listing().records)
    return folded


def folded_generations(manifest: Manifest) -> dict[Unit, int]:
    """The generation that the parts have of each unit, be it believed or not."""
    return {unit: row.generation for unit, row in newest_rows(manifest.parts).items()}


def seal(collection: Collection, wanted: Sequence[Unit]) -> int:
    """Fold everything that is committed, unless all `wanted` units are folded already; how many were.

    Parts that a killed process has left beside the one into which it merged them go.
    """
    manifest = collection.manifests.read()
    covered = covered_parts(manifest.parts)
    for name in sorted(covered):
        collection.storage.remove(name)
    if all(unit in manifest.rows for unit in wanted):
        merge(collection, [part.name for part in manifest.parts if part.name not in covered])
        return 0
    return fold(collection, collection.newest_generations(), held=folded_generations(manifest))


def merge(collection: Collection, names: Sequence[str]) -> None:
    """Replace the small ones among the parts `names` by a larger one; nothing where others are at it."""
    small = to_merge(names)
    try:
        parts = [collection.manifests.read_part(name) for name in small]
    except FileNotFoundError:  # merged by someone else
        return
    if parts:
        merged = collection.manifests.write(RECORDS, list(newest_rows(parts).values()))
        for name in small:
            if name != merged:
                collection.storage.remove(name)


def covered_parts(parts: Sequence[Part]) -> set[str]:
    """The names of parts that larger ones make superfluous: each row is there in that generation or a later one."""
    held: dict[Unit, int] = {}
    covered = set()
    for part in sorted(parts, key=lambda part: (-len(part.rows), part.name)):
        if all(held.get(row.unit, -1) >= row.generation for row in part.rows):
            covered.add(part.name)
        else:
            held |= {row.unit: max(row.generation, held.get(row.unit, 0)) for row in part.rows}
    return covered


def to_merge(names: Sequence[str]) -> list[str]:
    """The smallest parts that are to be one: of those left, each is GROWTH times as large as all below it together.

    100,000 commits, folded by 512, so end in at most 6 parts.
    """
    ordered = sorted((*part_size(name), name) for name in names)
    num_rows = num_bytes = stop = 0
    for index, (part_rows, part_bytes, _) in enumerate(ordered):
        num_bytes += part_bytes
        if num_bytes > MAX_PART_BYTES:
            break
        if part_rows < GROWTH * num_rows:
            stop = index + 1
        num_rows += part_rows
    return [name for _, _, name in ordered[:stop]]


def _readable(collection: Collection, unit: Unit, generation: int) -> Commit | None:
    try:
        return collection.find(unit, generation=generation)
    except CacheCorrupt:
        return None


def _cut(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows in turn, in parts of at most MAX_PART_BYTES of JSON (or of one row)."""
    part: list[Row] = []
    num_bytes = 0
    for row in rows:
        if part and num_bytes + len(row.json) > MAX_PART_BYTES:
            yield part
            part, num_bytes = [], 0
        part.append(row)
        num_bytes += len(row.json)
    if part:
        yield part
