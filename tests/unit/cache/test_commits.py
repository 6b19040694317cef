"""A unit exists exactly when its commit does, whoever raced and whoever crashed."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.target_set import Output
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from kd_ray.storage import LocalStorage
from kd_ray.storage.base import canonical_json
from tests.support.tiny_cache import IDS, UNIT, new_output, unit, values_of


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return new_output(str(tmp_path))


def _objects(output: Output) -> list[str]:
    return output.collection.storage.list(f"{output.collection.folder}/units")


def _commit_path(output: Output) -> Path:
    return Path(output.collection.storage.uri) / output.collection.folder / "commits" / f"{UNIT.id}.0.json"


class Killed(Exception):
    """The process ends here."""


@dataclass(frozen=True)
class DiesBeforeCommit(LocalStorage):
    """A machine that is lost between the objects and the commit."""

    def create(self, name: str, data: bytes) -> bool:
        raise Killed


@dataclass(frozen=True)
class LosesTheAnswer(LocalStorage):
    """A server that took the commit, whose answer was lost, and a client that has asked again."""

    def create(self, name: str, data: bytes) -> bool:
        super().create(name, data)
        return super().create(name, data)


def _on(output: Output, storage: LocalStorage) -> Output:
    return replace(output, collection=Collection(storage=storage, folder=output.collection.folder))


def test_a_unit_exists_once_it_is_committed(output: Output) -> None:
    assert not output.collection.is_committed(UNIT)
    assert output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    assert output.collection.is_committed(UNIT)
    assert list(output.collection.commits()) == [UNIT]


def test_a_later_attempt_loses_and_leaves_nothing(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    before = _objects(output)
    assert not output.write(UNIT, values_of(UNIT) + 1, IDS, attempt="a1")
    assert _objects(output) == before
    np.testing.assert_array_equal(
        output.read(output.collection.commits()[UNIT], view_index=0, sample_ids=IDS), values_of(UNIT)[0]
    )


def test_of_racing_attempts_one_wins_and_only_its_objects_remain(output: Output) -> None:
    start = threading.Barrier(4)

    def attempt(number: int) -> bool:
        start.wait()
        return output.write(UNIT, values_of(UNIT) + number, IDS, attempt=f"a{number}")

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(attempt, range(4)))
    commit = output.collection.commits()[UNIT]
    assert sum(won) == 1
    assert commit.attempt == f"a{won.index(True)}"
    assert {name.split("/")[3] for name in _objects(output)} == {commit.attempt}
    np.testing.assert_array_equal(
        output.read(commit, view_index=1, sample_ids=IDS), values_of(UNIT)[1] + won.index(True)
    )


def test_a_crash_before_the_commit_leaves_nothing_visible_and_a_later_attempt_succeeds(output: Output) -> None:
    with pytest.raises(Killed):
        _on(output, DiesBeforeCommit(output.collection.storage.uri)).write(UNIT, values_of(UNIT), IDS, attempt="a0")
    assert _objects(output)  # garbage, which no reader sees:
    assert output.collection.commits() == {}
    assert not output.collection.is_committed(UNIT)
    assert output.write(UNIT, values_of(UNIT), IDS, attempt="a1")
    assert output.collection.commits()[UNIT].attempt == "a1"


def test_a_commit_whose_answer_was_lost_keeps_its_objects(output: Output) -> None:
    assert _on(output, LosesTheAnswer(output.collection.storage.uri)).write(UNIT, values_of(UNIT), IDS, attempt="a0")
    commit = output.collection.commits()[UNIT]
    np.testing.assert_array_equal(output.read(commit, view_index=0, sample_ids=IDS), values_of(UNIT)[0])


def test_the_record_says_what_was_written(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    commit = output.collection.commits()[UNIT]
    sizes = {name: size for name, (size, _) in commit.objects.items()}
    storage = output.collection.storage
    assert sizes == {name: storage.size_bytes(output.collection.object_name(commit, name)) for name in sizes}
    assert {output.collection.object_name(commit, name) for name in sizes} == set(_objects(output))
    assert commit.num_bytes == sum(sizes.values())
    assert (commit.num_rows, commit.generation) == (len(IDS), 0)


def test_a_record_is_read_back_equal(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    commit = output.collection.read(UNIT, 0)
    again = Commit.from_json(commit.to_json(), location="x")
    assert again == commit


def test_no_flipped_bit_of_a_record_goes_unnoticed(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    path = _commit_path(output)
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CacheCorrupt, match="x: is not a readable commit record"):
            Commit.from_json(bytes(bad), location="x")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format":1,"arrays":[]}', b"\xff", b"null"])
def test_a_record_that_is_none_is_named(output: Output, content: bytes) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    _commit_path(output).write_bytes(content)
    with pytest.raises(CacheCorrupt, match=f"{UNIT.id}.0.json: is not a readable commit record"):
        output.collection.commits()


def test_a_record_of_a_later_format_is_refused(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    record = json.loads(_commit_path(output).read_bytes())
    _commit_path(output).write_bytes(canonical_json({**record, "format": 2}))
    with pytest.raises(CacheCorrupt, match="format 2, this version reads 1"):
        output.collection.commits()


def test_a_record_under_the_name_of_another_unit_is_refused(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    other = _commit_path(output).with_name(f"{unit(2, 4).id}.0.json")
    _commit_path(output).rename(other)
    with pytest.raises(CacheCorrupt, match=f"{other}: holds the record of {UNIT.id}.0"):
        output.collection.commits()


def test_a_stray_file_among_the_commits_is_named(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    _commit_path(output).with_name("notes.txt").write_text("hello")
    with pytest.raises(CacheCorrupt, match=r"notes\.txt: is not the name of a commit record"):
        output.collection.commits()


def test_the_highest_generation_is_the_one_that_counts(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    first = output.collection.read(UNIT, 0)
    for generation in (9, 10):
        repaired = replace(first, generation=generation, attempt=f"repair{generation}")
        _commit_path(output).with_name(f"{UNIT.id}.{generation}.json").write_bytes(repaired.to_json())
    assert output.collection.commits()[UNIT].attempt == "repair10"


def test_pinning_gives_the_commit_of_every_view(output: Output) -> None:
    units = [UNIT, unit(2, 3)]
    for each in units:
        output.write(each, values_of(each), IDS, attempt="a0")
    pinned = output.collection.pin(units)
    assert {view: commit.unit for (_, view), commit in pinned.items()} == {0: units[0], 1: units[0], 2: units[1]}


def test_pinning_an_incomplete_set_names_the_first_missing_unit_and_how_many(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    wanted = [UNIT, unit(2, 4), unit(4, 6)]
    with pytest.raises(CacheIncomplete, match=f"2 of 3 units are not committed, the first is {unit(2, 4).id}"):
        output.collection.pin(wanted)
