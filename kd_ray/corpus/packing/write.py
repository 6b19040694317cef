"""Writing planned shards: read their images again, see that they are the scanned ones, write, commit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kd_ray.config.corpus import Reencode
from kd_ray.corpus.format import Commit, commit_object
from kd_ray.corpus.images.check import check
from kd_ray.corpus.images.reencode import reencode, reencode_mask
from kd_ray.corpus.packing.shard import PackedRow, PlannedRow, ShardRef, decode_plan, write_shard
from kd_ray.corpus.source import Input, Source
from kd_ray.errors import CorpusError
from kd_ray.storage import Storage, join, open_storage
from kd_ray.storage.checksum import crc32c

NUM_WRITERS = 2  # one reads and encodes while the other waits for the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTask:
    """Shards of one source that are written together."""

    source: int
    shards: tuple[ShardRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a task did; `num_samples` counts those of shards that were there already, too."""

    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWriter:
    """Writes shards on any worker; one that is committed already is left alone."""

    sources: tuple[Source, ...]
    storage_uri: str
    plan_folder: str
    row_group_size: int
    reencode: Reencode | None
    listing_digest: str

    def __call__(self, task: WriteTask) -> Written:
        """Write and commit the shards of `task`.

        Raises:
            CorpusError: the source has changed since it was scanned, or another packing took a shard's name.
        """
        storage = open_storage(self.storage_uri)
        plans = {shard: decode_plan(storage.read(plan_object(self.plan_folder, shard.name))) for shard in task.shards}
        missing = {shard: rows for shard, rows in plans.items() if not self._is_committed(storage, shard)}
        source = self.sources[task.source]
        if source.is_sequential:
            for shard, rows in self._together(source, missing):
                self._write(storage, shard, rows)
        else:
            with ThreadPoolExecutor(NUM_WRITERS) as pool:
                for _ in pool.map(
                    lambda shard: self._write(storage, shard, self._in_order(source, missing[shard])), missing
                ):
                    pass
        return Written(num_samples=sum(map(len, plans.values())))

    def _write(self, storage: Storage, shard: ShardRef, rows: Iterable[PackedRow]) -> None:
        commit = write_shard(
            storage, shard, rows, row_group_size=self.row_group_size, listing_digest=self.listing_digest
        )
        if not storage.create(commit_object(shard.name), commit.to_json()):
            _refuse_other(storage, shard, commit)

    def _is_committed(self, storage: Storage, shard: ShardRef) -> bool:
        try:
            data = storage.read(commit_object(shard.name))
        except FileNotFoundError:
            return False
        commit = Commit.from_json(data, where=join(storage.uri, commit_object(shard.name)))
        if (commit.object, commit.annotations) != (shard.object, shard.annotations):
            raise _taken(storage, shard)
        return True

    def _in_order(self, source: Source, rows: Sequence[PlannedRow]) -> Iterator[PackedRow]:
        """The rows of one shard, each as soon as it and those before it are read, so that few are in memory."""
        place_of = {row.locator: i for i, row in enumerate(rows)}
        waiting: dict[int, PackedRow] = {}
        following = 0
        for each in source.fetch(list(place_of)):
            i = place_of.pop(each.locator)
            waiting[i] = self._packed(each, rows[i], where=source.uri)
            while following in waiting:
                yield waiting.pop(following)
                following += 1
        _refuse_missing(source, place_of)

    def _together(
        self, source: Source, plans: Mapping[ShardRef, list[PlannedRow]]
    ) -> Iterator[tuple[ShardRef, list[PackedRow]]]:
        """All shards in one pass over the source, each as soon as its last row is read."""
        place_of = {row.locator: (shard, i) for shard, rows in plans.items() for i, row in enumerate(rows)}
        filled: dict[ShardRef, dict[int, PackedRow]] = {shard: {} for shard in plans}
        for each in source.fetch(list(place_of)) if place_of else ():
            shard, i = place_of.pop(each.locator)
            filled[shard][i] = self._packed(each, plans[shard][i], where=source.uri)
            if len(filled[shard]) == len(plans[shard]):
                rows = filled.pop(shard)
                yield shard, [rows[i] for i in range(len(rows))]
        _refuse_missing(source, place_of)

    def _packed(self, each: Input, planned: PlannedRow, *, where: str) -> PackedRow:
        if crc32c(each.data) != planned.crc32c:
            raise _changed(where, planned.location)
        image, mask = each.data, each.mask
        height, width = planned.height, planned.width
        if self.reencode is not None:
            image = reencode(each.data, self.reencode)
            height, width = check(image)
            if mask is not None and (height, width) != (planned.height, planned.width):
                mask = reencode_mask(mask, (height, width))
        scale = (planned.width, planned.height)
        return PackedRow(
            planned=planned,
            image=image,
            mask=mask,
            boxes=None
            if each.boxes is None
            else [{"label": box.label, "corners": _fractions(box.corners, scale)} for box in each.boxes],
            polygons=None
            if each.polygons is None
            else [{"label": polygon.label, "points": _fractions(polygon.points, scale)} for polygon in each.polygons],
            caption=each.caption,
            height=height,
            width=width,
        )


def plan_object(folder: str, name: str) -> str:
    """The object of the planned rows of one shard."""
    return f"{folder}/{name}.parquet"


def _refuse_missing(source: Source, locators: Iterable[str]) -> None:
    for locator in locators:
        raise _changed(source.uri, locator)


def _fractions(points: Sequence[float], scale: tuple[int, int]) -> list[Any]:
    """x and y in turn, in pixels, as fractions of (width, height)."""
    return [value / scale[i % 2] for i, value in enumerate(points)]


def _refuse_other(storage: Storage, shard: ShardRef, commit: Commit) -> None:
    name = commit_object(shard.name)
    found = Commit.from_json(storage.read(name), where=join(storage.uri, name))
    if (found.object, found.footer_sha256) != (commit.object, commit.footer_sha256):
        raise _taken(storage, shard)


def _taken(storage: Storage, shard: ShardRef) -> CorpusError:
    return CorpusError(
        f"{join(storage.uri, commit_object(shard.name))}: two packings of different sources wrote shard {shard.name} "
        "at the same time, and the other one was first. Nothing is lost: run the same command again, one at a time."
    )


def _changed(uri: str, location: str) -> CorpusError:
    return CorpusError(
        f"{join(uri, location)}: changed while it was being packed. Let the source rest, then pack again; what is "
        "committed stays."
    )
