"""Kept pixels in verify and repair: each byte is checked, and a repair writes them beside their views again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.check_unit import check_view_objects
from kd_ray.cache.commits import Commit
from kd_ray.cache.kept_pixels import encode_kept, footer_of
from kd_ray.cache.target_set import SampleIds
from kd_ray.cache.verify import Verification, verify
from kd_ray.cache.view_store import PIXELS_OBJECT, VIEWS_OBJECT, ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.extraction.repair import path_of_views, repairing, repairs_of
from kd_ray.extraction.unit import VIEWS
from kd_ray.storage.checksum import crc32c
from tests.support.tiny_world import extract, files_below, plan_teacher, plan_views, save_teacher

NUM_VIEWS = 2
KEPT = KeptFormat(size_px=(12, 10), codec="jpeg", quality=80)


@pytest.fixture
def plan_for(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> Callable[..., TargetPlan]:
    def plan(teacher: KnownTeacher = tiny_teacher) -> TargetPlan:
        views = plan_views(tiny_corpus, tmp_path / "cache", num_views=NUM_VIEWS, unit_row_groups=1, kept=KEPT)
        return plan_teacher(teacher, views, tiny_corpus, tmp_path / "cache", outputs=("logits",))

    return plan


@pytest.fixture
def plan(plan_for: Callable[..., TargetPlan]) -> TargetPlan:
    extract(plan_for())
    return plan_for()


def verified(plan: TargetPlan) -> Verification:
    catalog = read_catalog(plan.job.cache_uri)
    return verify(catalog, catalog.entries, report=lambda done, total: None)


def repaired(plan: TargetPlan) -> TargetPlan:
    """What repair would do next."""
    entries = read_catalog(plan.job.cache_uri).entries
    wanted = {path: frozenset(plan.view_set.units) for path in entries}
    collections = {path: entry.collection for path, entry in entries.items()}
    return repairing(plan, repairs_of(verified(plan).findings, collections, wanted=wanted))


def store_of(plan: TargetPlan) -> ViewStore:
    store = read_catalog(plan.job.cache_uri).entries[path_of_views(plan)]
    assert isinstance(store, ViewStore)
    return store


Unit0 = tuple[ViewStore, Commit, dict[str, bytes]]


@pytest.fixture
def first(plan: TargetPlan) -> Unit0:
    """The first unit of views: its store, record and objects."""
    store = store_of(plan)
    commit = store.collection.commits()[plan.view_set.units[0]]
    names = {name: store.collection.object_name(commit, name) for name in commit.objects}
    return store, commit, {name: store.collection.storage.read(path) for name, path in names.items()}


def recorded(commit: Commit, pixels: bytes) -> Commit:
    """The record that would fit these bytes."""
    objects = {**commit.objects, PIXELS_OBJECT: (len(pixels), crc32c(pixels))}
    return replace(commit, objects=objects, footers={PIXELS_OBJECT: footer_of(pixels)})


def test_every_flipped_byte_of_kept_pixels_is_found(first: Unit0) -> None:
    store, commit, objects = first
    assert set(objects) == {VIEWS_OBJECT, PIXELS_OBJECT}
    assert not list(check_view_objects(store, commit, objects))
    good = objects[PIXELS_OBJECT]
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        ((name, problem),) = check_view_objects(store, commit, {**objects, PIXELS_OBJECT: bytes(bad)})
        assert (name, problem[:9]) == (PIXELS_OBJECT, "crc32c is")


def test_a_record_that_fits_damaged_pixels_does_not_make_them_whole(first: Unit0) -> None:
    """The checksums inside are looked at, too."""
    store, commit, objects = first
    bad = bytearray(objects[PIXELS_OBJECT])
    row = store.pixels(commit, 0, sample_ids=ids_of(store, commit))[3]
    bad[bytes(bad).index(row) + len(row) // 2] ^= 1
    fitting = recorded(commit, bytes(bad))
    ((name, problem),) = check_view_objects(store, fitting, {**objects, PIXELS_OBJECT: bytes(bad)})
    assert name == PIXELS_OBJECT
    assert "crc" in problem.lower()


@pytest.mark.parametrize("change", ["other samples", "another order", "fewer views", "fewer rows", "other views"])
def test_pixels_of_other_views_or_samples_than_the_record_tells_of_are_found(first: Unit0, change: str) -> None:
    store, commit, objects = first
    unit, ids = commit.unit, ids_of(store, commit)
    pixels = [store.pixels(commit, view, sample_ids=ids) for view in range(NUM_VIEWS)]
    match change:
        case "other samples":
            data = encode_kept(unit, ids + np.uint64(1), [*pixels[0], *pixels[1]])
        case "another order":
            data = encode_kept(unit, ids[::-1].copy(), [*pixels[0], *pixels[1]])
        case "fewer views":
            data = encode_kept(replace(unit, view_stop=1), ids, pixels[0])
        case "fewer rows":
            data = encode_kept(unit, ids[1:], [*pixels[0][1:], *pixels[1][1:]])
        case _:
            data = encode_kept(replace(unit, view_start=1, view_stop=3), ids, [*pixels[0], *pixels[1]])
    ((name, _),) = check_view_objects(store, recorded(commit, data), {**objects, PIXELS_OBJECT: data})
    assert name == PIXELS_OBJECT


def test_a_record_without_pixels_is_found_where_the_view_set_keeps_them(first: Unit0) -> None:
    store, commit, objects = first
    views = {VIEWS_OBJECT: objects[VIEWS_OBJECT]}
    without = replace(commit, objects={VIEWS_OBJECT: commit.objects[VIEWS_OBJECT]}, footers={})
    ((name, problem),) = check_view_objects(store, without, views)
    assert name == PIXELS_OBJECT
    assert "though its view set keeps pixels" in problem


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("object_name", [VIEWS_OBJECT, PIXELS_OBJECT])
def test_a_repair_writes_views_and_pixels_again_and_an_added_teacher_reads_those(
    plan_for: Callable[..., TargetPlan], plan: TargetPlan, tmp_path: Path, object_name: str, lost: bool
) -> None:
    cache, path, unit = tmp_path / "cache", path_of_views(plan), plan.view_set.units[1]
    whole = files_below(cache)
    (damaged,) = (cache / path / "units" / unit.id).rglob(object_name)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.unlink() if lost else damaged.write_bytes(data)
    (finding,) = verified(plan).all_findings
    assert (finding.location, finding.unit) == (str(damaged), unit)

    before = files_below(cache)
    (report,) = extract(repaired(plan), attempt="again")
    assert (report.unit_id, report.num_forwards) == (unit.id, 0)
    after = files_below(cache)
    assert {name: after[name] for name in before} == before
    new = f"{path}/units/{unit.id}/again"
    assert set(after) - set(before) == {
        f"{path}/commits/{unit.id}.1.json",
        f"{path}/manifest/newer/{unit.id}.1",
        f"{new}/{VIEWS_OBJECT}",
        f"{new}/{PIXELS_OBJECT}",
    }
    for name in (VIEWS_OBJECT, PIXELS_OBJECT):
        assert after[f"{new}/{name}"] == whole[f"{path}/units/{unit.id}/first/{name}"]
    assert not verified(plan).all_findings

    added = plan_for(save_teacher(tmp_path, seed=9, name="added"))
    assert added.job.generations[VIEWS] == {unit.id: 1}
    assert sum(report.num_forwards for report in extract(added)) == added.forwards_total
    assert set(files_below(cache / "views")) == {name.removeprefix("views/") for name in after if "views/" in name[:6]}
    assert not verified(added).all_findings


def ids_of(store: ViewStore, commit: Commit) -> SampleIds:
    return np.array([row.sample_id for row in store.rows(commit, 0)], np.uint64)
