"""What lies in a cache is listed whole, and what is damaged or foreign is named without hiding the rest."""

import json
from pathlib import Path

import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.records import read_records
from kd_ray.cache.summary import summarize
from kd_ray.errors import CacheIncomplete, RecipeError
from tests.support.tiny_cache import IDS, UNIT, unit, values_of
from tests.support.whole_cache import UNITS, WholeCache, view_rows, write_cache

NUM_VIEWS = sum(each.num_views for each in UNITS) * len(IDS)


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    return write_cache(str(tmp_path))


def test_view_sets_and_outputs_are_found_by_their_paths(cache: WholeCache) -> None:
    catalog = read_catalog(cache.uri)
    assert sorted(catalog.entries) == sorted(cache.paths())
    output = catalog.outputs[cache.path_of("logits")]
    assert (output.spec, output.target_set) == (cache.outputs["logits"].spec, cache.outputs["logits"].target_set)
    assert catalog.views_of(output) == cache.views
    assert catalog.findings == catalog.unnamed == ()


def test_every_entry_has_a_line_with_what_is_committed(cache: WholeCache) -> None:
    lines, findings = summarize(read_catalog(cache.uri))
    assert findings == []
    by_path = {each.path: each for each in lines}
    for path, entry in read_catalog(cache.uri).entries.items():
        line = by_path[path]
        commits = entry.collection.commits().values()
        assert (line.units, line.views, line.num_bytes) == (len(UNITS), NUM_VIEWS, sum(c.num_bytes for c in commits))
        assert line.newest_s == pytest.approx(
            max(p.stat().st_mtime for p in Path(cache.uri, path, "commits").iterdir())
        )
    assert by_path[cache.path_of("summary")].state == "complete"
    assert by_path[cache.path_of("summary")].what == "3 float32"


def test_an_output_is_measured_by_the_units_of_its_views(cache: WholeCache) -> None:
    more = unit(4, 6)
    cache.views.write(more, view_rows(more), IDS, attempt="a0")
    cache.outputs["summary"].write(more, values_of(more), IDS, attempt="a0")
    lines, _ = summarize(read_catalog(cache.uri))
    assert {each.path: each.state for each in lines} == {
        cache.paths()[0]: "",
        cache.path_of("summary"): "complete",
        cache.path_of("logits"): "2 of 3 units",
    }


def test_targets_whose_views_are_elsewhere_are_told_so(cache: WholeCache) -> None:
    cache.views.collection.storage.remove(cache.views.spec.folder)
    lines, findings = summarize(read_catalog(cache.uri))
    assert [each.state for each in lines] == ["its views are not here"] * 2
    assert findings == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:-1], "is not a kd_ray identity file"),
        (lambda text: "[]", "is not a kd_ray identity file"),
        (lambda text: text.replace('"codec":"float32"', '"codec":"float16"'), "its identity has the fingerprint"),
        (lambda text: json.dumps({**json.loads(text), "identity": 3}), "are not both JSON objects"),
    ],
)
def test_a_damaged_identity_is_a_finding_and_the_rest_is_still_listed(cache: WholeCache, change, told: str) -> None:
    path = Path(cache.uri, cache.path_of("summary"), "output.json")
    path.write_text(change(path.read_text()))
    catalog = read_catalog(cache.uri)
    assert sorted(catalog.entries) == sorted({*cache.paths()} - {cache.path_of("summary")})
    (finding,) = catalog.findings
    assert (finding.location, finding.unit) == (str(path), None)
    assert told in finding.problem


def test_a_folder_under_another_fingerprint_is_a_finding(cache: WholeCache) -> None:
    path = Path(cache.uri, cache.path_of("summary"))
    path.rename(path.with_name("summary-000000000000"))
    (finding,) = read_catalog(cache.uri).findings
    assert f"ends in -{cache.outputs['summary'].spec.fingerprint[:12]}" in finding.problem


def test_a_folder_without_an_identity_is_unnamed(cache: WholeCache) -> None:
    Path(cache.uri, cache.path_of("summary"), "output.json").unlink()
    assert read_catalog(cache.uri).unnamed == (cache.path_of("summary"),)


def test_what_is_no_record_and_what_is_a_broken_one_are_both_named(cache: WholeCache) -> None:
    commits = Path(cache.uri, cache.path_of("summary"), "commits")
    names = ["notes.txt", "x.json", f"{UNIT.id}.-1.json", f"{UNIT.id}.00.json", f"{UNIT.id}.0.txt"]
    for name in names:
        (commits / name).write_text("x")
    broken = commits / f"{UNIT.id}.0.json"
    broken.write_bytes(broken.read_bytes()[:-1])
    records = read_records(read_catalog(cache.uri).outputs[cache.path_of("summary")].collection)
    assert list(records.newest) == [UNITS[1]]
    assert {each.location for each in records.findings} == {str(commits / name) for name in [*names, broken.name]}
    (repairable,) = (each for each in records.findings if each.unit is not None)
    assert (repairable.unit, repairable.location) == (UNIT, str(broken))


def test_of_several_generations_the_newest_counts_even_where_it_is_damaged(cache: WholeCache) -> None:
    collection = cache.outputs["summary"].collection
    objects = {"object": b"new"}
    assert collection.publish(UNIT, objects, attempt="a1", num_rows=1, members_digest="m", generation=1)
    assert not collection.publish(UNIT, objects, attempt="a2", num_rows=1, members_digest="m", generation=1)
    records = read_records(collection)
    assert (records.newest[UNIT].attempt, records.newest[UNIT].generation) == ("a1", 1)
    assert records.generations == {UNIT: (0, 1), UNITS[1]: (0,)}
    Path(collection.location(collection.commit_name(UNIT, 1))).write_text("{}")
    assert UNIT not in read_records(collection).newest


def test_a_name_is_a_path_or_a_part_that_only_one_has(cache: WholeCache) -> None:
    catalog = read_catalog(cache.uri)
    assert catalog.one("summary", catalog.entries)[0] == cache.path_of("summary")
    assert set(catalog.matching("targets/")) == {cache.path_of("summary"), cache.path_of("logits")}
    with pytest.raises(RecipeError, match=r"is called spatial\. It holds views/plain-train-"):
        catalog.matching("spatial")
    with pytest.raises(RecipeError, match=r"teacher may be targets/teacher-.*Give more of the name"):
        catalog.one("teacher", catalog.entries)


@pytest.mark.parametrize("folder", ["", "nowhere", "other"])
def test_where_there_is_no_cache_that_is_told(tmp_path: Path, folder: str) -> None:
    (tmp_path / "other" / "images").mkdir(parents=True)
    with pytest.raises(CacheIncomplete, match="holds no cache, neither views/ nor targets/"):
        read_catalog(str(tmp_path / folder))
