"""Manifests on a real S3 server over HTTP: requests, racing folders, and a repair that is read at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from kd_ray.cache.commits import Collection
from kd_ray.cache.fold import fold, seal
from kd_ray.cache.manifest import RECORDS
from kd_ray.errors import CacheCorrupt
from kd_ray.storage import open_storage
from tests.support.many_commits import commit_of, counting, many_units

UNITS = many_units(40)


@pytest.fixture
def collection(s3_uri: str) -> Collection:
    made = Collection(storage=open_storage(s3_uri), folder="output")
    for unit in UNITS:
        assert made.storage.create(made.commit_name(unit, 0), commit_of(unit).to_json())
    return made


def test_folded_commits_are_pinned_by_one_listing_and_one_read_a_part(collection: Collection) -> None:
    expected = collection.pin(UNITS)
    fold(collection, dict.fromkeys(UNITS[:30], 0))
    fold(collection, dict.fromkeys(UNITS[30:], 0))
    counted, storage = counting(collection)
    assert counted.pin(UNITS) == expected
    assert storage.calls == {"list": 1, "read": 2}
    assert collection.statistics(expected.values()) == {unit: commit_of(unit).statistics for unit in UNITS}


def test_those_who_fold_at_once_end_in_one_manifest_and_readers_see_all_units(collection: Collection) -> None:
    expected = collection.pin(UNITS)
    starts = range(0, len(UNITS), 10)

    def fold_ten(start: int) -> None:
        fold(collection, dict.fromkeys(UNITS[start : start + 10], 0))

    with ThreadPoolExecutor(8) as pool:
        folding = [pool.submit(fold_ten, start) for start in [*starts, *starts]]
        while not all(each.done() for each in folding):
            assert collection.pin(UNITS) == expected
        for each in folding:
            each.result()
    seal(collection, UNITS)
    assert set(collection.manifests.read().rows) == set(UNITS)
    counted, storage = counting(collection)
    assert counted.pin(UNITS) == expected
    assert storage.calls["list"] == 1


def test_a_repair_is_read_before_and_after_it_is_folded(collection: Collection) -> None:
    seal(collection, UNITS)
    assert collection.publish(
        UNITS[3], {"zarr.json": b"{}"}, attempt="again", num_rows=1, members_digest="d", generation=1
    )
    for _ in range(2):
        assert collection.pin(UNITS)[UNITS[3].span, 0] == replace(collection.read(UNITS[3], 1), statistics=None)
        seal(collection, UNITS)


def test_a_changed_part_is_corruption(collection: Collection) -> None:
    seal(collection, UNITS)
    (name,) = collection.manifests.listing().records
    collection.storage.write(name, collection.storage.read(name)[:-1])
    with pytest.raises(CacheCorrupt, match=rf"s3://.*/manifest/{RECORDS}/40-.*: damaged"):
        collection.pin(UNITS)
