"""What is folded reads as the records do, whoever folds, removes or repairs meanwhile."""

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.cache.commits import Collection
from kd_ray.cache.fold import GROWTH, MAX_PART_BYTES, covered_parts, fold, seal, to_merge
from kd_ray.cache.manifest import NUM_LISTINGS, RECORDS, STATISTICS, Part, Row, encode_rows, part_size
from kd_ray.cache.statistics import ChannelStatistics
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt, CacheIncomplete, StorageError
from kd_ray.storage import LocalStorage
from kd_ray.storage.base import canonical_json
from kd_ray.storage.checksum import crc32c
from tests.support.many_commits import commit_of, counting, many_units, write_records
from tests.support.tiny_cache import IDS, UNIT, new_output, unit, values_of

UNITS = many_units(7)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(storage=LocalStorage(str(tmp_path)), folder="output")


def parts(collection: Collection, kind: str = RECORDS) -> list[Path]:
    return sorted(Path(collection.location(collection.folder), "manifest", kind).glob("*"))


def fold_all(collection: Collection) -> int:
    return fold(collection, collection.newest_generations())


def repair(collection: Collection, of: Unit, *, generation: int = 1) -> None:
    assert collection.publish(
        of, {"zarr.json": b"{}"}, attempt="again", num_rows=1, members_digest="d", generation=generation
    )


def test_folded_commits_are_those_of_the_records(collection: Collection) -> None:
    commits = write_records(collection, UNITS)
    before = collection.commits()
    assert fold_all(collection) == len(UNITS)
    assert collection.commits() == before == {each.unit: replace(each, statistics=None) for each in commits}
    assert fold_all(collection) == 0
    assert len(parts(collection)) == len(parts(collection, STATISTICS)) == 1


def test_what_is_folded_is_pinned_without_records_or_their_names(collection: Collection) -> None:
    write_records(collection, UNITS)
    expected = collection.pin(UNITS)
    fold_all(collection)
    counted, storage = counting(collection)
    assert counted.pin(UNITS) == expected
    assert storage.calls == {"list": 1, "read": 1}


def test_commits_beside_a_manifest_are_seen_and_only_they_are_read(collection: Collection) -> None:
    write_records(collection, UNITS[:5])
    fold_all(collection)
    write_records(collection, UNITS[5:])
    counted, storage = counting(collection)
    assert set(counted.pin(UNITS)) == {(each.span, view) for each in UNITS for view in (0, 1)}
    assert storage.calls == {"list": 2, "read": 1 + 2}
    with pytest.raises(CacheIncomplete, match="1 of 8 units are not committed"):
        collection.pin([*UNITS, UNIT])


def test_statistics_come_back_bit_for_bit_in_the_order_of_the_units(tmp_path: Path) -> None:
    output = new_output(str(tmp_path))
    units = [unit(2 * number, 2 * number + 2) for number in range(4)]
    for each in units:
        output.write(each, values_of(each), IDS, attempt="a0")
    from_records = output.statistics(output.collection.read(each, 0) for each in units)
    fold(output.collection, dict.fromkeys(units[2:], 0))
    fold(output.collection, dict.fromkeys(units[:2], 0))
    counted, storage = counting(output.collection)
    folded = replace(output, collection=counted).statistics(output.collection.commits().values())
    assert storage.calls == {"list": 1, "read": 2}
    for name in ("mean", "variance", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(folded, name), getattr(from_records, name), strict=True)
    assert folded.count == from_records.count
    for path in parts(output.collection, STATISTICS):
        path.unlink()
    again = output.statistics(output.collection.commits().values())
    np.testing.assert_array_equal(again.variance, from_records.variance)


def test_a_record_and_its_statistics_put_together_have_its_checksum(collection: Collection) -> None:
    commit = commit_of(UNIT)
    record, statistics = commit.rows()
    assert statistics is not None
    together = {**json.loads(record.json), "statistics": json.loads(statistics.json)}
    stored = together.pop("crc32c")
    assert crc32c(canonical_json(together)) == stored
    assert canonical_json({**together, "crc32c": stored}) == commit.to_json()


def test_a_repair_that_is_not_folded_is_not_overlooked(collection: Collection) -> None:
    """The manifest still has the superseded commit; what the repair has announced keeps readers from believing it."""
    write_records(collection, UNITS)
    fold_all(collection)
    repair(collection, UNITS[2])
    assert collection.pin(UNITS)[UNITS[2].span, 0].attempt == "again"
    assert collection.newest_generations(UNITS)[UNITS[2]] == 1
    assert fold_all(collection) == 1
    assert collection.pin(UNITS)[UNITS[2].span, 0].attempt == "again"
    counted, storage = counting(collection)
    counted.pin(UNITS)
    assert storage.calls["list"] == 1


def test_removing_the_newer_part_brings_no_superseded_commit_back(collection: Collection) -> None:
    write_records(collection, UNITS)
    fold_all(collection)
    older = parts(collection)
    repair(collection, UNITS[2])
    fold_all(collection)
    for path in parts(collection):
        if path not in older:
            path.unlink()
    assert parts(collection) == older
    assert collection.pin(UNITS)[UNITS[2].span, 0].attempt == "again"


def test_a_repair_that_died_before_its_commit_changes_nothing(collection: Collection) -> None:
    commits = write_records(collection, UNITS)
    fold_all(collection)
    collection.manifests.announce(UNITS[2], 1)
    before = parts(collection)
    assert collection.pin(UNITS)[UNITS[2].span, 0].attempt == commits[2].attempt
    assert seal(collection, UNITS) == 0
    assert parts(collection) == before


def test_sealing_folds_what_an_interrupted_run_left(collection: Collection) -> None:
    write_records(collection, UNITS[:3])
    assert seal(collection, UNITS[:3]) == 3
    write_records(collection, UNITS[3:])
    counted, storage = counting(collection)
    assert seal(counted, UNITS[:3]) == 0
    assert storage.calls == {"list": 1, "read": 1}
    assert seal(collection, UNITS) == 4
    assert collection.newest_generations(UNITS) == dict.fromkeys(UNITS, 0)


def test_a_record_that_cannot_be_read_stays_unfolded_and_is_named_by_whoever_wants_it(collection: Collection) -> None:
    write_records(collection, UNITS)
    bad = Path(collection.location(collection.commit_name(UNITS[0], 0)))
    bad.write_bytes(b"{}")
    assert fold_all(collection) == len(UNITS) - 1
    assert set(collection.commits(UNITS[1:])) == set(UNITS[1:])
    with pytest.raises(CacheCorrupt, match=str(bad)):
        collection.pin(UNITS)


@dataclass(frozen=True)
class RemovesBeforeReading(LocalStorage):
    """Another process removes each part between its listing and its reading, and writes it under another name."""

    left: list[int] = field(default_factory=lambda: [1])

    def read(self, name: str) -> bytes:
        if f"/{RECORDS}/" in name and self.left[0] > 0:
            self.left[0] -= 1
            self.remove(name)
        return super().read(name)


def test_a_part_removed_under_a_reader_is_looked_for_again(collection: Collection) -> None:
    write_records(collection, UNITS)
    expected = collection.pin(UNITS)
    fold_all(collection)
    other = replace(collection, storage=RemovesBeforeReading(collection.storage.uri))
    assert other.pin(UNITS) == expected


@dataclass(frozen=True)
class AlwaysMerging(RemovesBeforeReading):
    """Another process replaces the parts whenever they have been listed."""

    def list(self, prefix: str) -> "list[str]":
        if prefix.endswith("/manifest"):
            collection = Collection(storage=LocalStorage(self.uri), folder="output")
            collection.manifests.write(RECORDS, [commit_of(UNITS[0]).rows()[0]])
        return super().list(prefix)


def test_parts_that_keep_vanishing_end_in_an_error(collection: Collection) -> None:
    other = replace(collection, storage=AlwaysMerging(collection.storage.uri, left=[10**6]))
    with pytest.raises(StorageError, match=f"output/manifest: parts were removed during each of {NUM_LISTINGS}"):
        other.pin(UNITS)


@dataclass(frozen=True)
class DiesBeforeRemoving(LocalStorage):
    """A process killed once the merged part is there."""

    def remove(self, prefix: str) -> None:
        raise KeyboardInterrupt


def test_killed_between_the_merged_part_and_the_removal_of_the_small_ones(collection: Collection) -> None:
    write_records(collection, UNITS)
    expected = collection.pin(UNITS)
    for each in UNITS[:2]:
        collection.manifests.write(RECORDS, [commit_of(each).rows()[0]])
    with pytest.raises(KeyboardInterrupt):
        fold_all(replace(collection, storage=DiesBeforeRemoving(collection.storage.uri)))
    assert len(parts(collection)) > 2
    assert collection.pin(UNITS) == expected
    seal(collection, UNITS)
    assert [path.name.split("-")[0] for path in parts(collection)] == ["2", "5"]
    assert collection.pin(UNITS) == expected


def test_two_who_fold_at_once_end_in_one_manifest(collection: Collection) -> None:
    write_records(collection, UNITS)
    expected = collection.pin(UNITS)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fold_all(collection), range(4)))
    assert len(parts(collection)) == len(parts(collection, STATISTICS)) == 1
    assert collection.pin(UNITS) == expected


def test_equal_rows_give_equal_bytes() -> None:
    rows = [commit_of(each).rows()[0] for each in UNITS]
    assert encode_rows(rows) == encode_rows(rows[::-1])


@pytest.mark.parametrize("name", ["notes.txt", "records/notes.txt", "newer/x.1", "newer/a/b"])
def test_a_stray_file_in_a_manifest_is_named(collection: Collection, name: str) -> None:
    path = Path(collection.location("output/manifest"), name)
    path.parent.mkdir(parents=True)
    path.write_text("hello")
    with pytest.raises(CacheCorrupt, match=f"{name}: is not the name of a part. Remove the file"):
        collection.commits()


def part_of(units: Sequence[Unit], *, generation: int = 0, name: str = "") -> Part:
    rows = tuple(Row(each, generation, "{}") for each in units)
    return Part(name=f"{name or len(rows)}-{len(rows)}-x.parquet", rows=rows)


def test_a_part_is_covered_by_larger_ones_of_the_same_or_later_generations() -> None:
    all_of, some, repaired = part_of(UNITS), part_of(UNITS[2:4]), part_of(UNITS[:1], generation=1)
    assert covered_parts([some, all_of, repaired]) == {some.name}
    assert covered_parts([some, repaired]) == set()
    assert covered_parts([part_of(UNITS, name="a"), part_of(UNITS, name="b")]) == {f"b-{len(UNITS)}-x.parquet"}


@given(sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=60))
def test_parts_grow_so_that_few_are_left_and_few_bytes_are_written_twice(sizes: list[int]) -> None:
    """As folding does it: one part more, then a merge."""
    standing: list[int] = []
    written = 0
    for size in sizes:
        names = [
            f"output/manifest/records/{each}-{each}-{place}.parquet" for place, each in enumerate([*standing, size])
        ]
        small = [part_size(name)[0] for name in to_merge(names)]
        left = sorted([*standing, size])[len(small) :]
        written += sum(small)
        standing = sorted([*left, sum(small)] if small else left)
        assert all(each >= GROWTH * sum(standing[:place]) for place, each in enumerate(standing) if place)
    assert len(standing) <= 1 + math.log(sum(sizes), GROWTH + 1) + 1
    assert written <= 2 * math.log2(2 * sum(sizes)) * sum(sizes)


def test_parts_do_not_grow_beyond_what_one_request_uploads() -> None:
    large = [f"output/manifest/records/9-{MAX_PART_BYTES // 2 + 1}-{place}.parquet" for place in range(3)]
    small = [f"output/manifest/records/2-100-{place}.parquet" for place in range(2)]
    assert to_merge(large) == []
    assert to_merge(large + small) == small


def test_statistics_of_channels_survive_the_way_through_a_manifest(collection: Collection) -> None:
    (commit,) = write_records(collection, UNITS[:1], num_channels=5)
    fold_all(collection)
    (read,) = collection.statistics(collection.commits().values()).values()
    assert commit.statistics is not None
    assert ChannelStatistics.from_json(read).to_json() == commit.statistics
