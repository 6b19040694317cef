"""What goes is what no reader looks at, and what is left is read as before."""

import os
import time
from pathlib import Path

import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.garbage import Garbage, find_garbage, remove_garbage, whole_target_set
from kd_ray.cache.verify import verify
from kd_ray.errors import RecipeError
from tests.support.tiny_cache import IDS, UNIT, unit, values_of
from tests.support.tiny_world import files_below
from tests.support.whole_cache import WholeCache, write_cache

NOW_S = 1_000_000_000.0
HOUR_S = 3600.0


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    """Everything in it is an hour old."""
    made = write_cache(str(tmp_path))
    age(tmp_path, HOUR_S)
    return made


def age(root: Path, seconds: float) -> None:
    for path in root.rglob("*") if root.is_dir() else [root]:
        os.utime(path, (NOW_S - seconds, NOW_S - seconds))


def leave(path: Path, text: str = "left", *, age_s: float = HOUR_S) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    age(path, age_s)
    return path


def garbage(cache: WholeCache, *, older_than_s: float = 0.5 * HOUR_S) -> list[Garbage]:
    return find_garbage(read_catalog(cache.uri), before_s=NOW_S - older_than_s)


def reasons(cache: WholeCache) -> dict[str, str]:
    return {each.path: each.reason for each in garbage(cache)}


def assert_whole(cache: WholeCache) -> None:
    catalog = read_catalog(cache.uri)
    assert verify(catalog, catalog.entries, report=lambda done, total: None).all_findings == []


def folder(cache: WholeCache, output: str = "summary") -> Path:
    return Path(cache.uri, cache.path_of(output))


def test_a_whole_cache_has_none(cache: WholeCache) -> None:
    assert garbage(cache) == []


def test_leftovers_of_all_kinds_go_and_everything_else_stays(cache: WholeCache) -> None:
    before = files_below(Path(cache.uri))
    left = {
        folder(cache) / "units" / UNIT.id / "dead" / "values" / "c" / "0": "an attempt that no commit names",
        folder(cache) / "units" / unit(8, 9).id / "dead" / "zarr.json": "an attempt that no commit names",
        folder(cache) / "commits" / ".x.json.0123.partial": "a write that was never finished",
        Path(cache.uri, "targets", "teacher-0123456789ab", "x", "units", "u"): "a folder without an identity file",
        Path(cache.uri, "views", "plain-0123456789ab", "units", "u"): "a folder without an identity file",
    }
    for path in left:
        leave(path)
    found = garbage(cache)
    assert sum(each.num_bytes for each in found) == len(left) * len("left")
    for path, reason in left.items():
        assert any(str(path).startswith(f"{cache.uri}/{each.path}") and each.reason == reason for each in found), path
    remove_garbage(cache.uri, found)
    assert files_below(Path(cache.uri)) == before
    assert garbage(cache) == []
    assert_whole(cache)


def test_what_a_writer_may_be_at_is_spared(cache: WholeCache) -> None:
    attempt = folder(cache) / "units" / UNIT.id / "at-work"
    leave(attempt / "zarr.json")
    leave(attempt / "values" / "c" / "0", age_s=60)  # its newest object counts
    leave(folder(cache) / "commits" / ".x.json.0123.partial", age_s=60)
    assert garbage(cache) == []
    assert len(garbage(cache, older_than_s=30)) == 2


def test_what_is_foreign_or_was_committed_is_not_touched(cache: WholeCache) -> None:
    leave(Path(cache.uri, "views", "notes", "read-me.txt"))
    leave(Path(cache.uri, "notes.txt"))
    leave(folder(cache) / "units" / "notes.txt")
    leave(folder(cache) / "units" / "not-a-unit" / "a" / "b")
    (folder(cache, "logits") / "output.json").unlink()  # lost, but units are committed there
    assert garbage(cache) == []


@pytest.mark.parametrize("generation", [0, 1])
def test_where_a_record_cannot_be_read_all_attempts_of_its_unit_stay(cache: WholeCache, generation: int) -> None:
    assert cache.outputs["summary"].write(UNIT, values_of(UNIT), IDS, attempt="a1", generation=1)
    leave(folder(cache) / "commits" / f"{UNIT.id}.{generation}.json", "{}")
    leave(folder(cache) / "units" / UNIT.id / "dead" / "zarr.json")
    age(Path(cache.uri), HOUR_S)
    assert garbage(cache) == []


def test_a_superseded_attempt_goes_once_its_successor_is_old_and_whole(cache: WholeCache) -> None:
    output = cache.outputs["summary"]
    assert output.write(UNIT, values_of(UNIT) + 1, IDS, attempt="a1", generation=1)
    old = f"{cache.path_of('summary')}/units/{UNIT.id}/a0"
    assert reasons(cache) == {}  # a reader may have pinned the first one a moment ago
    age(Path(cache.uri), HOUR_S)
    assert reasons(cache) == {old: "superseded by generation 1"}

    successor = folder(cache) / "units" / UNIT.id / "a1" / "zarr.json"
    good = successor.read_bytes()
    leave(successor, "{}")
    assert reasons(cache) == {}
    successor.write_bytes(good)
    age(successor, HOUR_S)

    remove_garbage(cache.uri, garbage(cache))
    assert_whole(cache)
    assert (
        output.read(output.collection.commits()[UNIT], view_index=0, sample_ids=IDS)[0, 0]
        == values_of(UNIT)[0, 0, 0] + 1
    )


def test_a_target_set_goes_with_views_that_nobody_else_uses(cache: WholeCache) -> None:
    found = whole_target_set(read_catalog(cache.uri), "teacher")
    assert [each.path.split("/")[0] for each in found] == ["targets", "views"]
    assert sum(each.num_bytes for each in found) == sum(map(len, files_below(Path(cache.uri)).values()))
    remove_garbage(cache.uri, found)
    assert files_below(Path(cache.uri)) == {}


@pytest.mark.parametrize("is_readable", [True, False])
def test_views_that_another_target_set_may_use_stay(cache: WholeCache, is_readable: bool) -> None:
    other = write_cache(cache.uri, teacher="other", weights="w1")
    if not is_readable:
        path = Path(cache.uri, "targets", other.outputs["summary"].target_set.folder, "target_set.json")
        good = path.read_bytes()
        path.write_text("{}")
    target_set = cache.outputs["summary"].target_set.folder
    found = whole_target_set(read_catalog(cache.uri), "teacher")
    assert [each.path for each in found] == [f"targets/{target_set}"]
    remove_garbage(cache.uri, found)
    if not is_readable:
        path.write_bytes(good)
    assert set(read_catalog(cache.uri).entries) == set(other.paths())
    assert_whole(other)


def test_a_target_set_that_is_none_or_several_is_refused(cache: WholeCache) -> None:
    write_cache(cache.uri, teacher="teacher-2", weights="w1")
    for name in ("nobody", "teacher"):
        with pytest.raises(RecipeError, match=rf"--target-set {name} may be .* Give one of these names"):
            whole_target_set(read_catalog(cache.uri), name)


def test_the_real_clock_spares_what_was_just_written(tmp_path: Path) -> None:
    cache = write_cache(str(tmp_path))
    (folder(cache) / "units" / UNIT.id / "at-work").mkdir()
    (folder(cache) / "units" / UNIT.id / "at-work" / "zarr.json").write_text("x")
    catalog = read_catalog(cache.uri)
    assert find_garbage(catalog, before_s=time.time() - 60) == []
    assert len(find_garbage(catalog, before_s=time.time() + 60)) == 1
