"""One output of a target set on a real S3 server over HTTP, through the code that serves local caches."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from kd_ray.cache.target_set import Output, open_output
from kd_ray.errors import CacheCorrupt, CacheIncomplete, FingerprintMismatch
from tests.support.tiny_cache import IDS, UNIT, new_output, summary, target_set, unit, values_of

NUM_RACERS = 4


@pytest.fixture
def output(s3_uri: str) -> Output:
    return new_output(s3_uri)


def test_what_is_written_is_read(output: Output) -> None:
    assert output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    commit = output.collection.commits()[UNIT]
    for view in range(UNIT.num_views):
        np.testing.assert_array_equal(output.read(commit, view_index=view, sample_ids=IDS), values_of(UNIT)[view])


def test_of_racing_attempts_one_wins_and_only_its_objects_remain(output: Output) -> None:
    start = Barrier(NUM_RACERS)

    def attempt(number: int) -> bool:
        start.wait()
        return output.write(UNIT, values_of(UNIT) + number, IDS, attempt=f"a{number}")

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        won = list(pool.map(attempt, range(NUM_RACERS)))
    commit = output.collection.commits()[UNIT]
    assert sum(won) == 1
    assert commit.attempt == f"a{won.index(True)}"
    assert output.collection.storage.folders(f"{output.collection.folder}/units/{UNIT.id}") == [commit.attempt]


def test_a_truncated_object_is_corruption(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    commit = output.collection.commits()[UNIT]
    name = output.collection.object_name(commit, commit.arrays["values"].object_name)
    for kept in (0, 20, 34, 50):
        output.collection.storage.write(name, output.collection.storage.read(name)[:kept])
        with pytest.raises(CacheCorrupt, match=rf"s3://.*{commit.arrays['values'].object_name}: got \d+ bytes"):
            output.read(commit, view_index=1, sample_ids=IDS)


def test_a_missing_object_is_corruption(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    commit = output.collection.commits()[UNIT]
    output.collection.storage.remove(f"{output.collection.folder}/units/{UNIT.id}/a0/values")
    with pytest.raises(CacheCorrupt, match="is missing, though its unit is committed"):
        output.read(commit, view_index=0, sample_ids=IDS)


def test_an_incomplete_set_names_the_first_missing_unit(output: Output) -> None:
    output.write(UNIT, values_of(UNIT), IDS, attempt="a0")
    with pytest.raises(CacheIncomplete, match=f"s3://.*the first is {unit(2, 4).id}"):
        output.collection.pin([UNIT, unit(2, 4)])


def test_another_teachers_target_set_is_refused(s3_uri: str, output: Output) -> None:
    with pytest.raises(FingerprintMismatch, match=r"s3://.*teacher\.weights: 'w0' -> 'w1'"):
        open_output(s3_uri, target_set(weights="w1"), summary(), create=False)


def test_nothing_there_yet_is_incomplete(s3_uri: str) -> None:
    with pytest.raises(CacheIncomplete, match="holds nothing named teacher"):
        open_output(s3_uri, target_set(), summary(), create=False)
