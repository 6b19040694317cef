"""Attempts and commits: the only way by which data comes to exist in a cache.

An attempt writes its objects under a name of its own. The commit, created conditionally, comes last and names the
attempt. Readers trust commits alone, or manifests folded from them; a losing or a crashed attempt is garbage that no
reader sees.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from kd_ray.cache.arrays import ArrayLayout
from kd_ray.cache.commit import Commit, parse_commit_name
from kd_ray.cache.manifest import MANIFEST, NUM_READERS, Manifest, Manifests
from kd_ray.cache.units import Span, Unit
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from kd_ray.storage import Storage
from kd_ray.storage.base import Data
from kd_ray.storage.checksum import crc32c

__all__ = ["Collection", "Commit", "PinnedUnits", "parse_commit_name"]

WRITES_AT_ONCE = 4

PinnedUnits = Mapping[tuple[Span, int], Commit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A folder of units: one output of a target set, or the views of a view set."""

    storage: Storage
    folder: str

    def object_name(self, commit: Commit, name: str) -> str:
        """Where an object of a committed attempt lies."""
        return f"{self._attempt_folder(commit.unit, commit.attempt)}/{name}"

    def location(self, name: str) -> str:
        """The full address of an object, for messages."""
        return f"{self.storage.uri}/{name}"

    @property
    def manifests(self) -> Manifests:
        """Commits folded together."""
        return Manifests(storage=self.storage, folder=self.folder)

    def commits(self, wanted: Sequence[Unit] | None = None) -> dict[Unit, Commit]:
        """The newest commit of every unit that exists, or of the `wanted` ones that do; statistics are left out.

        Records are read of those alone that are in no manifest; nothing is listed where all `wanted` units are.
        """
        manifest = self.manifests.read()
        newest = self.newest_generations(wanted, manifest=manifest)
        units = sorted(newest if wanted is None else newest.keys() & set(wanted))
        rows = {unit: row for unit in units if (row := manifest.rows.get(unit)) and row.generation == newest[unit]}
        unfolded = [unit for unit in units if unit not in rows]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            read = pool.map(lambda unit: replace(self.read(unit, newest[unit]), statistics=None), unfolded)
            commits = dict(zip(unfolded, read, strict=True))
        location = self.location(f"{self.folder}/{MANIFEST}")
        commits |= {unit: Commit.from_row(row, location=location) for unit, row in rows.items()}
        return {unit: commits[unit] for unit in units}

    def newest_generations(
        self, wanted: Iterable[Unit] | None = None, *, manifest: Manifest | None = None
    ) -> dict[Unit, int]:
        """The units that exist and the generation that counts of each, from the names of the records alone.

        Where `manifest` (by default what is folded now) holds all `wanted` units, it says so without a listing, which
        may know of further units.

        Raises:
            CacheCorrupt: something else lies among the records.
        """
        if wanted is not None:
            held = (manifest or self.manifests.read()).rows
            if all(unit in held for unit in wanted):
                return {unit: row.generation for unit, row in held.items()}
        newest: dict[Unit, int] = {}
        for name in self.storage.list(f"{self.folder}/commits"):
            try:
                unit, generation = parse_commit_name(name)
            except ValueError as error:
                raise CacheCorrupt(
                    f"{self.location(name)}: is not the name of a commit record. Remove the file."
                ) from error
            newest[unit] = max(generation, newest.get(unit, 0))
        return newest

    def statistics(self, commits: Iterable[Commit]) -> dict[Unit, Mapping[str, Any]]:
        """The statistics of each commit as recorded, read where they were left out: from manifests, else the records.

        Raises:
            CacheCorrupt: what is read is not what was committed.
        """
        found: dict[Unit, Mapping[str, Any]] = {}
        left_out: dict[Unit, int] = {}
        for each in commits:
            if each.statistics is None:
                left_out[each.unit] = each.generation
            else:
                found[each.unit] = each.statistics
        if left_out:
            found |= {unit: json.loads(each) for unit, each in self.manifests.statistics(left_out).items()}
            units = [unit for unit in left_out if unit not in found]
            with ThreadPoolExecutor(NUM_READERS) as pool:
                read = pool.map(lambda unit: self.read(unit, left_out[unit]).statistics or {}, units)
                found |= dict(zip(units, read, strict=True))
        return found

    def pin(self, wanted: Sequence[Unit]) -> PinnedUnits:
        """The commits of the `wanted` units by (span, view).

        Raises:
            CacheIncomplete: some are not committed; how many, and the first of them.
        """
        commits = self.commits(wanted)
        missing = [unit for unit in wanted if unit not in commits]
        if missing:
            raise CacheIncomplete(
                f"{self.location(self.folder)}: {len(missing)} of {len(wanted)} units are not committed, the first is "
                f"{missing[0].id}. Run the extract stage again; it computes what is missing."
            )
        return {(unit.span, view): commits[unit] for unit in wanted for view in range(unit.view_start, unit.view_stop)}

    def is_committed(self, unit: Unit, *, generation: int = 0) -> bool:
        """Whether the unit's commit of that generation is there (one look-up)."""
        return self.storage.exists(self.commit_name(unit, generation))

    def find(self, unit: Unit, *, generation: int = 0) -> Commit | None:
        """The unit's commit of that generation; None where there is none (one look-up)."""
        try:
            return self.read(unit, generation)
        except FileNotFoundError:
            return None

    def publish(
        self,
        unit: Unit,
        objects: Mapping[str, Data],
        *,
        attempt: str,
        num_rows: int,
        members_digest: str,
        arrays: Mapping[str, ArrayLayout] | None = None,
        statistics: Callable[[], Mapping[str, Any]] = dict,
        footers: Mapping[str, tuple[int, int]] | None = None,
        generation: int = 0,
    ) -> bool:
        """Write one attempt and commit it; False if another attempt was first, whose data then stands.

        `statistics` are asked for once the objects are written. `footers` are (bytes, crc32c) of the ends of objects
        that readers parse without reading the whole. The objects of a losing attempt are removed again. A `generation`
        above 0 replaces the one before it.
        """
        folder = self._attempt_folder(unit, attempt)
        # at once, since what small ones take is waiting: for the disk's journal, or for a server
        with ThreadPoolExecutor(WRITES_AT_ONCE) as pool:
            deque(pool.map(lambda name: self.storage.write(f"{folder}/{name}", objects[name]), objects), maxlen=0)
        commit = Commit(
            unit=unit,
            generation=generation,
            attempt=attempt,
            num_rows=num_rows,
            members_digest=members_digest,
            objects={name: (len(data), crc32c(data)) for name, data in objects.items()},
            arrays=arrays or {},
            statistics=statistics(),
            footers=footers or {},
        )
        if generation:
            self.manifests.announce(unit, generation)
        if self.storage.create(self.commit_name(unit, generation), commit.to_json()):
            return True
        # A client that never got the answer to its first try is told, when it tries again, that the object is there:
        # the commit that stands may be this very attempt's.
        if self.read(unit, generation).attempt == attempt:
            return True
        self.storage.remove(folder)
        return False

    def commit_name(self, unit: Unit, generation: int) -> str:
        """Where the commit record of a unit lies."""
        return f"{self.folder}/commits/{unit.id}.{generation}.json"

    def read(self, unit: Unit, generation: int) -> Commit:
        """One commit record.

        Raises:
            CacheCorrupt: it is something else than its name says, or has changed since it was written.
        """
        name = self.commit_name(unit, generation)
        commit = Commit.from_json(self.storage.read(name), location=self.location(name))
        if (commit.unit, commit.generation) != (unit, generation):
            raise CacheCorrupt(
                f"{self.location(name)}: holds the record of {commit.unit.id}.{commit.generation}. "
                "Run kd-ray cache repair with this recipe."
            )
        return commit

    def _attempt_folder(self, unit: Unit, attempt: str) -> str:
        return f"{self.folder}/units/{unit.id}/{attempt}"
