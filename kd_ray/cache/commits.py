"""Attempts and commits: the only way by which data comes to exist in a cache.

An attempt writes its objects under a name of its own. The commit, created conditionally, comes last and names the
attempt. Readers trust commits alone; a losing or a crashed attempt is garbage that no reader sees.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google_crc32c

from kd_ray.cache.arrays import ArrayLayout
from kd_ray.cache.commit import Commit, parse_commit_name
from kd_ray.cache.units import Span, Unit
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from kd_ray.storage import Storage

__all__ = ["NUM_READERS", "Collection", "Commit", "PinnedUnits", "parse_commit_name"]

NUM_READERS = 16


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

    def commits(self) -> dict[Unit, Commit]:
        """The newest commit of every unit that exists."""
        newest = self.newest_generations()
        units = sorted(newest)
        with ThreadPoolExecutor(NUM_READERS) as pool:
            return dict(zip(units, pool.map(lambda unit: self.read(unit, newest[unit]), units), strict=True))

    def newest_generations(self) -> dict[Unit, int]:
        """The units that exist and the generation that counts of each, from the names of the records alone.

        Raises:
            CacheCorrupt: something else lies among them.
        """
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

    def pin(self, wanted: Sequence[Unit]) -> PinnedUnits:
        """The commits of the `wanted` units by (span, view).

        Raises:
            CacheIncomplete: some are not committed; how many, and the first of them.
        """
        commits = self.commits()
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
        objects: Mapping[str, bytes],
        *,
        attempt: str,
        num_rows: int,
        members_digest: str,
        arrays: Mapping[str, ArrayLayout] | None = None,
        statistics: Mapping[str, Any] | None = None,
        footers: Mapping[str, tuple[int, int]] | None = None,
        generation: int = 0,
    ) -> bool:
        """Write one attempt and commit it; False if another attempt was first, whose data then stands.

        `footers` are (bytes, crc32c) of the ends of objects that readers parse without reading the whole. The objects
        of a losing attempt are removed again. A `generation` above 0 replaces the one before it.
        """
        folder = self._attempt_folder(unit, attempt)
        for name, data in objects.items():
            self.storage.write(f"{folder}/{name}", data)
        commit = Commit(
            unit=unit,
            generation=generation,
            attempt=attempt,
            num_rows=num_rows,
            members_digest=members_digest,
            objects={name: (len(data), google_crc32c.value(data)) for name, data in objects.items()},
            arrays=arrays or {},
            statistics=statistics or {},
            footers=footers or {},
        )
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
