"""What verify finds beside flipped bytes: parts of a cache that do not belong to one another."""

from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.findings import Finding
from kd_ray.cache.target_set import members_digest
from kd_ray.cache.verify import verify
from tests.support.tiny_cache import IDS, UNIT, unit, values_of
from tests.support.whole_cache import UNITS, WholeCache, view_rows, write_cache

OTHER_IDS = IDS[::-1].copy()


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    return write_cache(str(tmp_path))


def found(cache: WholeCache) -> list[Finding]:
    catalog = read_catalog(cache.uri)
    return verify(catalog, catalog.entries, report=lambda done, total: None).all_findings


def test_a_whole_cache_has_no_findings_and_all_of_it_is_read(cache: WholeCache) -> None:
    catalog = read_catalog(cache.uri)
    told: list[tuple[int, int]] = []
    result = verify(catalog, catalog.entries, report=lambda done, total: told.append((done, total)))
    num_bytes = sum(c.num_bytes for entry in catalog.entries.values() for c in entry.collection.commits().values())
    assert (result.num_units, result.num_bytes, result.all_findings) == (3 * len(UNITS), num_bytes, [])
    assert (told[0], told[-1]) == ((0, num_bytes), (num_bytes, num_bytes))


def test_the_findings_of_each_entry_are_its_own(cache: WholeCache) -> None:
    output = cache.outputs["summary"]
    name = output.collection.object_name(output.collection.commits()[UNIT], "zarr.json")
    output.collection.storage.write(name, b"{}")
    catalog = read_catalog(cache.uri)
    findings = verify(catalog, catalog.entries, report=lambda done, total: None).findings
    assert {path: len(each) for path, each in findings.items() if each} == {cache.path_of("summary"): 1}
    ((finding,),) = (each for each in findings.values() if each)
    assert (finding.location, finding.unit) == (output.collection.location(name), UNIT)
    assert finding.problem.startswith("got 2 bytes, expected ")


def test_a_changed_value_names_its_view(cache: WholeCache) -> None:
    output = cache.outputs["summary"]
    commit = output.collection.commits()[UNITS[1]]
    layout = commit.arrays["values"]
    name = output.collection.object_name(commit, layout.object_name)
    data = bytearray(output.collection.storage.read(name))
    data[layout.ranges[1][0]] ^= 1
    output.collection.storage.write(name, bytes(data))
    (finding,) = found(cache)
    assert "The checksum is wrong of view 3." in finding.problem


def test_targets_without_views_are_found(cache: WholeCache) -> None:
    more = unit(4, 6)
    cache.outputs["summary"].write(more, values_of(more), IDS, attempt="a0")
    (finding,) = found(cache)
    assert f"unit {more.id} has targets but no views" in finding.problem


def test_targets_of_other_samples_than_their_views_are_found(cache: WholeCache) -> None:
    more = unit(4, 6)
    cache.views.write(more, view_rows(more), IDS, attempt="a0")
    cache.outputs["summary"].write(more, values_of(more), OTHER_IDS, attempt="a0")
    (finding,) = found(cache)
    assert finding.unit == more
    assert f"{members_digest(OTHER_IDS)} against {members_digest(IDS)}" in finding.problem


def test_a_view_set_that_is_gone_is_found_for_each_output(cache: WholeCache) -> None:
    cache.views.collection.storage.remove(cache.views.spec.folder)
    assert {each.location for each in found(cache)} == {f"{cache.uri}/{cache.path_of(name)}" for name in cache.outputs}


def test_views_of_other_rows_than_the_record_tells_are_found(cache: WholeCache) -> None:
    more, other = unit(4, 6), unit(6, 8)
    cache.views.write(more, view_rows(other), IDS, attempt="a0")
    cache.views.write(other, view_rows(other, OTHER_IDS), IDS, attempt="a0")
    problems = sorted(each.problem for each in found(cache))
    assert len(problems) == 2
    assert "its rows are not the 5 samples of each view of the unit in turn" in problems[0]
    assert "its sample ids are not those that the record tells of" in problems[1]


def test_commits_in_a_folder_whose_identity_is_lost_are_found(cache: WholeCache) -> None:
    path = Path(cache.uri, cache.path_of("summary"))
    (path / "output.json").unlink()
    (finding,) = found(cache)
    assert finding.location == str(path)
    assert "has commits, but its identity file is missing" in finding.problem


def test_a_folder_that_a_crash_left_is_no_finding(cache: WholeCache) -> None:
    Path(cache.uri, "views", "plain-train-0123456789ab").mkdir()
    Path(cache.uri, cache.path_of("summary"), "units", UNIT.id, "b0").mkdir()
    Path(cache.uri, cache.path_of("summary"), "units", UNIT.id, "b0", "zarr.json").write_text("half")
    assert found(cache) == []


def test_a_lost_calibration_is_found(cache: WholeCache) -> None:
    path = Path(cache.uri, cache.path_of("logits"), "calibration.json")
    path.unlink()
    (finding,) = found(cache)
    assert (finding.location, finding.unit) == (str(path), None)
    cache.outputs["logits"].calibrate(np.zeros((4, 2), np.float32))
    (finding,) = found(cache)
    assert "has 2 channels, expected 3" in finding.problem


def test_only_the_newest_generation_is_read(cache: WholeCache) -> None:
    output = cache.outputs["summary"]
    first = output.collection.commits()[UNIT]
    output.collection.storage.write(output.collection.object_name(first, "zarr.json"), b"{}")
    assert output.write(UNIT, values_of(UNIT), IDS, attempt="a1", generation=1)
    assert found(cache) == []
    np.testing.assert_array_equal(
        output.read(output.collection.commits()[UNIT], view_index=0, sample_ids=IDS), values_of(UNIT)[0]
    )
