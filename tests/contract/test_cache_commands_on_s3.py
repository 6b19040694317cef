"""What is in a cache, whether it is whole and what may go, on a real S3 server over HTTP."""

import time

import pytest
from rich.console import Console

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.garbage import find_garbage, remove_garbage, whole_target_set
from kd_ray.cache.summary import summarize
from kd_ray.cache.verify import verify
from kd_ray.errors import CacheIncomplete, RecipeError
from kd_ray.storage import open_storage
from pipelines.cache.export import ExportRequest, export_output
from tests.support.tiny_cache import UNIT
from tests.support.whole_cache import WholeCache, write_cache

SOON_S, LONG_AGO_S = 60.0, -60.0  # servers tell whole seconds


@pytest.fixture
def cache(s3_uri: str) -> WholeCache:
    return write_cache(s3_uri, units=(UNIT,))


def locations(cache: WholeCache) -> list[str]:
    catalog = read_catalog(cache.uri)
    return [each.location for each in verify(catalog, catalog.entries, report=lambda d, t: None).all_findings]


def test_all_that_was_written_is_listed_and_whole(cache: WholeCache) -> None:
    lines, findings = summarize(read_catalog(cache.uri))
    assert {each.path for each in lines} == set(cache.paths())
    assert {each.state for each in lines} == {"", "complete"}
    assert all(each.newest_s is not None and abs(each.newest_s - time.time()) < 60 for each in lines)
    assert findings == locations(cache) == []


def test_where_nothing_is_there_is_no_cache(s3_uri: str) -> None:
    with pytest.raises(CacheIncomplete, match="holds no cache"):
        read_catalog(f"{s3_uri}/nowhere")


def test_missing_and_changed_objects_are_named(cache: WholeCache) -> None:
    output = cache.outputs["logits"]
    commit = output.collection.commits()[UNIT]
    missing, changed = (output.collection.object_name(commit, name) for name in ("zarr.json", "scale/zarr.json"))
    output.collection.storage.remove(missing)
    output.collection.storage.write(changed, b"{}")
    assert locations(cache) == sorted(output.collection.location(name) for name in (missing, changed))


def test_an_attempt_without_a_commit_goes_once_it_is_old(cache: WholeCache) -> None:
    output = cache.outputs["summary"]
    storage, folder = output.collection.storage, f"{output.spec.folder}/units/{UNIT.id}/dead"
    storage.write(f"{folder}/values/c/0", b"left")
    catalog = read_catalog(cache.uri)
    assert find_garbage(catalog, before_s=time.time() + LONG_AGO_S) == []
    (found,) = find_garbage(catalog, before_s=time.time() + SOON_S)
    assert (found.path, found.num_bytes) == (f"targets/{output.target_set.folder}/{folder}", 4)
    remove_garbage(cache.uri, [found])
    assert find_garbage(catalog, before_s=time.time() + SOON_S) == []
    assert locations(cache) == []


def test_a_target_set_goes_whole(cache: WholeCache) -> None:
    remove_garbage(cache.uri, whole_target_set(read_catalog(cache.uri), "teacher"))
    with pytest.raises(CacheIncomplete, match="holds no cache"):
        read_catalog(cache.uri)


def test_an_export_ends_with_its_card(cache: WholeCache) -> None:
    request = ExportRequest(to=f"{cache.uri}-export", format="parquet")
    export_output(cache.uri, "summary", request, console=Console(), as_json=False)
    written = open_storage(request.to).list("")
    assert written == ["README.md", "data/train-00000-of-00001.parquet", "export.json"]
    with pytest.raises(RecipeError, match="something is published there"):
        export_output(cache.uri, "summary", request, console=Console(), as_json=False)
