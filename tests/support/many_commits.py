"""Collections of many commits whose objects nobody reads, and a storage that counts what is asked of it."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_ray.cache.arrays import ArrayLayout
from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.statistics import ChannelStatistics
from kd_ray.cache.units import Span, Unit
from kd_ray.storage import Storage

NUM_SAMPLES = 256


class CountingStorage:
    """A real storage; `calls` has how often each method was called, `bytes_read` what `read` has returned."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.uri = storage.uri
        self.calls: Counter[str] = Counter()
        self.bytes_read = 0

    def read(self, name: str) -> bytes:
        data = self._storage.read(name)
        self.calls["read"] += 1
        self.bytes_read += len(data)
        return data

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._storage, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return method(*args, **options)

        return counted


def counting(collection: Collection) -> tuple[Collection, CountingStorage]:
    """The same collection on a storage that counts."""
    storage = CountingStorage(collection.storage)
    return Collection(storage=storage, folder=collection.folder), storage


def many_units(num_units: int) -> list[Unit]:
    """Units of two views, a hundred to a shard."""
    return [
        Unit(
            span=Span(shard=f"train-{index // 100:05d}", group_start=index % 100, group_stop=index % 100 + 1),
            view_start=0,
            view_stop=2,
        )
        for index in range(num_units)
    ]


def commit_of(unit: Unit, *, generation: int = 0, num_channels: int = 3) -> Commit:
    """As an output's, with statistics of the unit's own."""
    seed = np.frombuffer(f"{unit.id}.{generation}".encode(), np.uint8)
    random = np.random.default_rng(seed)
    num_bytes = 2 * NUM_SAMPLES * num_channels
    ranges = tuple((view * (num_bytes + 4), num_bytes + 4) for view in range(unit.num_views))
    values = ArrayLayout(
        object_name="values/c/0/0/0", dtype="<f2", shape=(unit.num_views, NUM_SAMPLES, num_channels), ranges=ranges
    )
    return Commit(
        unit=unit,
        generation=generation,
        attempt=random.bytes(16).hex(),
        num_rows=NUM_SAMPLES,
        members_digest=random.bytes(16).hex(),
        objects={
            name: (size, int(random.integers(2**32)))
            for name, size in (("values/c/0/0/0", 2 * num_bytes + 44), ("values/zarr.json", 700), ("zarr.json", 250))
        },
        arrays={"values": values},
        statistics=ChannelStatistics.of(random.standard_normal((8, num_channels))).to_json(),
    )


def write_records(collection: Collection, units: Sequence[Unit], *, num_channels: int = 3) -> list[Commit]:
    """Commits of `units` in a local collection, without their objects, and without waiting for the disk."""
    commits = [commit_of(unit, num_channels=num_channels) for unit in units]
    os.makedirs(collection.location(f"{collection.folder}/commits"), exist_ok=True)
    for each in commits:
        path = Path(collection.location(collection.commit_name(each.unit, each.generation)))
        path.write_bytes(each.to_json())
    return commits
