"""Manifests in whole caches: how much is read, what damage does, what the commands say, and who folds."""

from dataclasses import replace
from pathlib import Path

import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.check_manifest import check_manifest, fold_again
from kd_ray.cache.commits import Collection
from kd_ray.cache.fold import FOLD_EVERY, fold, seal
from kd_ray.cache.garbage import find_garbage, remove_garbage, whole_target_set
from kd_ray.cache.manifest import RECORDS
from kd_ray.cache.records import read_records
from kd_ray.cache.summary import summarize
from kd_ray.cache.verify import verify
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt
from kd_ray.extraction.folding import Folding
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.storage import LocalStorage
from pipelines.stages.extract import fold_what_is_left
from pipelines.stages.plan import CachePlan
from tests.support.many_commits import counting, many_units, write_records
from tests.support.tiny_cache import IDS, UNIT, values_of
from tests.support.tiny_world import extract, plan_teacher, plan_views
from tests.support.whole_cache import UNITS, WholeCache, write_cache

FAR_AHEAD_S = 1e11


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    """Every collection of it is folded."""
    made = write_cache(str(tmp_path / "cache"))
    for entry in read_catalog(made.uri).entries.values():
        assert fold(entry.collection, entry.collection.newest_generations()) == len(UNITS)
    return made


def findings(cache: WholeCache) -> set[str]:
    catalog = read_catalog(cache.uri)
    return {each.location for each in verify(catalog, catalog.entries, report=lambda done, total: None).all_findings}


def parts(cache: WholeCache, path: str, kind: str = "*") -> list[Path]:
    return sorted(Path(cache.uri, path, "manifest").glob(f"{kind}/*.parquet"))


def test_3000_units_are_pinned_by_a_few_reads_and_resumed_by_as_few(tmp_path: Path) -> None:
    """Folded as the driver does it; beside the parts only what is not folded yet is read."""
    collection = Collection(storage=LocalStorage(str(tmp_path)), folder="output")
    units = many_units(3000)
    commits = write_records(collection, units, num_channels=16)
    for start in range(0, len(units), FOLD_EVERY):
        fold(collection, dict.fromkeys(units[start : start + FOLD_EVERY], 0))
    counted, storage = counting(collection)
    pinned = counted.pin(units)
    assert {commit.attempt for commit in pinned.values()} == {each.attempt for each in commits}
    assert storage.calls["list"] == 1
    assert storage.calls["read"] <= 6
    assert storage.bytes_read < 3000 * 250  # where the records have 1,600 each

    write_records(collection, more := many_units(3100)[3000:])
    counted, storage = counting(collection)
    assert counted.newest_generations([*units, *more]) == dict.fromkeys([*units, *more], 0)
    assert (storage.calls["list"], storage.calls["read"] <= 6) == (2, True)
    assert seal(collection, [*units, *more]) == len(more)


def test_every_flipped_byte_of_a_part_is_found_with_the_part_named(cache: WholeCache) -> None:
    path = cache.path_of("summary")
    collection = read_catalog(cache.uri).outputs[path].collection
    for part in parts(cache, path):
        good = part.read_bytes()
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1 << position % 8
            part.write_bytes(bad)
            with pytest.raises(CacheCorrupt, match="its bytes are not those that its name tells of"):
                collection.manifests.read_part(part.relative_to(collection.storage.uri).as_posix())
        part.write_bytes(good)
    for part in parts(cache, path, RECORDS):
        part.write_bytes(parts(cache, cache.path_of("logits"), RECORDS)[0].read_bytes())  # sound, but another one
        with pytest.raises(CacheCorrupt, match=str(part)):
            collection.pin(UNITS)


def test_verify_and_ls_name_a_damaged_part_and_repair_folds_again(cache: WholeCache) -> None:
    path = cache.path_of("logits")
    before = read_catalog(cache.uri).outputs[path].collection.pin(UNITS)
    assert findings(cache) == set()
    damaged = parts(cache, path)
    good = [part.read_bytes() for part in damaged]
    for part in damaged:
        part.write_bytes(part.read_bytes()[:-1])
    assert findings(cache) == {str(part) for part in damaged}
    lines, told = summarize(read_catalog(cache.uri))
    assert {each.path: each.units for each in lines} == dict.fromkeys(cache.paths(), len(UNITS))
    assert any(str(damaged[0]) in str(each) for each in told)

    catalog = read_catalog(cache.uri)
    found = {each: [*check_manifest(entry.collection, None)] for each, entry in catalog.entries.items()}
    assert {each.location for each in fold_again(catalog, found)} == {str(part) for part in damaged}
    assert [part.read_bytes() for part in damaged] == good
    assert catalog.outputs[path].collection.pin(UNITS) == before
    assert findings(cache) == set()


def test_a_part_that_says_something_else_than_its_record_is_a_finding(cache: WholeCache) -> None:
    path = cache.path_of("summary")
    collection = read_catalog(cache.uri).outputs[path].collection
    commit = collection.read(UNITS[0], 0)
    row, _ = replace(commit, attempt="invented").rows()
    changed = collection.manifests.write(RECORDS, [row])
    unknown = collection.manifests.write(RECORDS, [row._replace(generation=7)])
    assert findings(cache) == {collection.location(changed), collection.location(unknown)}


def test_ls_reads_parts_and_verify_reads_records(cache: WholeCache) -> None:
    collection, storage = counting(cache.outputs["summary"].collection)
    listed = read_records(collection, use_manifests=True)
    assert storage.calls["read"] == 1
    verified = read_records(collection)
    assert storage.calls["read"] == 1 + len(UNITS)
    assert listed.newest == {unit: replace(each, statistics=None) for unit, each in verified.newest.items()}


def test_what_a_larger_part_holds_goes_and_nothing_else(cache: WholeCache) -> None:
    collection = cache.outputs["summary"].collection
    superfluous = collection.manifests.write(RECORDS, [collection.read(UNITS[0], 0).rows()[0]])
    (found,) = find_garbage(read_catalog(cache.uri), before_s=FAR_AHEAD_S)
    assert (Path(cache.uri, found.path), found.reason) == (
        Path(collection.location(superfluous)),
        "folded into a larger part",
    )
    assert find_garbage(read_catalog(cache.uri), before_s=0) == []
    remove_garbage(cache.uri, [found])
    assert find_garbage(read_catalog(cache.uri), before_s=FAR_AHEAD_S) == []
    assert findings(cache) == set()


def test_a_target_set_that_goes_loses_its_manifests_and_its_records_before_its_data(
    cache: WholeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    remove = LocalStorage.remove
    monkeypatch.setattr(LocalStorage, "remove", lambda self, prefix: (removed.append(prefix), remove(self, prefix)))
    remove_garbage(cache.uri, whole_target_set(read_catalog(cache.uri), "teacher"))
    kinds = [each.rsplit("/", 1)[-1] for each in removed if each.startswith("targets")]
    assert kinds[:4] == ["manifest", "manifest", "commits", "commits"]


def test_a_repaired_unit_is_read_in_its_new_generation_whether_or_not_that_is_folded(cache: WholeCache) -> None:
    output = cache.outputs["summary"]
    collection = output.collection
    data = Path(collection.location(collection.object_name(collection.read(UNIT, 0), "values/c/0/0/0")))
    data.write_bytes(bytes(len(data.read_bytes())))
    assert findings(cache) == {str(data)}
    assert output.write(UNIT, values_of(UNIT), IDS, attempt="again", generation=1)
    for _ in range(2):
        pinned = collection.pin(UNITS)
        values = output.read(pinned[UNIT.span, 0], view_index=0, sample_ids=IDS)
        assert values.tolist() == values_of(UNIT)[0].tolist()
        assert findings(cache) == set()
        assert output.statistics(pinned.values()).count == sum(len(IDS) * each.num_views for each in UNITS)
        seal(collection, UNITS)


def test_a_plans_commits_are_folded_as_they_are_reported_and_the_next_plan_reads_no_record(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_ray.extraction.folding.FOLD_EVERY", 2)
    uri = str(tmp_path)

    def planned(num_views: int = 2) -> TargetPlan:
        views = plan_views(tiny_corpus, uri, num_views=num_views)
        return plan_teacher(tiny_teacher, views, tiny_corpus, uri, outputs=("summary", "logits"))

    plan = planned()
    folding = Folding(plan)
    reports = extract(plan)
    for report in reports[:3]:
        folding.add(report.unit_id)
    collections = [each.collection for each in read_catalog(uri).entries.values()]
    assert [len(each.manifests.read().rows) for each in collections] == [2, 2, 2]
    assert not planned().missing
    folding.seal()
    assert [len(each.manifests.read().rows) for each in collections] == [len(reports)] * 3

    for each in Path(uri).rglob("commits/*.json"):
        each.write_bytes(b"damaged: whoever reads this fails")
    again = planned()
    assert not again.missing
    assert again.view_set.units == plan.view_set.units
    assert again.committed_bytes() > 0
    grown = planned(num_views=4)
    assert set(grown.missing) == set(grown.view_set.units) - set(plan.view_set.units)
    assert len(grown.missing) == len(plan.view_set.units)


def test_a_complete_cache_that_cannot_be_written_is_used_with_a_warning(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    def planned() -> CachePlan:
        views = plan_views(tiny_corpus, tmp_path, num_views=1)
        plan = plan_teacher(tiny_teacher, views, tiny_corpus, tmp_path, outputs=("logits",))
        return CachePlan(training_views={}, training={}, evaluation={"teacher": plan}, is_live=False)

    extract(planned().evaluation["teacher"])
    collections = [each.collection for each in read_catalog(str(tmp_path)).entries.values()]
    in_the_way = Path(collections[0].location(collections[0].folder), "manifest")
    in_the_way.write_text("no folder can be made here")
    told = fold_what_is_left(planned())
    assert told.startswith(f". WARNING: commits are not folded, which makes opening the cache slow: {in_the_way}")
    in_the_way.unlink()
    assert fold_what_is_left(planned()) == ""
    assert all(set(each.manifests.read().rows) == set(each.commits()) for each in collections)
