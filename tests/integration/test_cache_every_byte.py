"""One flipped bit in any byte of a cache is found with its object named, or changes nothing that is read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.target_set import open_output
from kd_ray.cache.verify import Verification, verify
from kd_ray.cache.view_store import find_view_store
from kd_ray.storage.base import canonical_json
from kd_ray.views import renderer_versions
from tests.support.tiny_cache import IDS, UNIT
from tests.support.whole_cache import WholeCache, write_cache


def verified(uri: str) -> Verification:
    catalog = read_catalog(uri)
    return verify(catalog, catalog.entries, report=lambda done, total: None, num_threads=1)


def everything_read(cache: WholeCache) -> list[NDArray[np.float32] | object]:
    """Through the functions that training reads by."""
    written = cache.outputs["logits"]
    output = open_output(cache.uri, written.target_set, written.spec, create=False)
    store = find_view_store(cache.uri, cache.views.spec)
    assert store is not None
    commits, of_views = output.collection.commits(), store.collection.commits()
    values = [output.read(commits[UNIT], view_index=view, sample_ids=IDS).tolist() for view in range(UNIT.num_views)]
    return [values, [store.proofs(of_views[UNIT], view) for view in range(UNIT.num_views)]]


def flipped(path: Path) -> Iterator[int]:
    """Each byte in turn with one bit the other way, the file mended in the end."""
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        yield position
    path.write_bytes(good)


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    cache = write_cache(str(tmp_path), units=(UNIT,), outputs=("logits",))
    expected = everything_read(cache)
    assert not verified(cache.uri).all_findings
    harmless: dict[str, int] = {}
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    for path in files:
        for position in flipped(path):
            findings = verified(cache.uri).all_findings
            if not findings:
                assert everything_read(cache) == expected, (path, position)
                harmless[path.name] = harmless.get(path.name, 0) + 1
            else:
                assert str(path) in {each.location for each in findings}, (path, position)
    assert len(files) == 14
    # What is recorded, not fingerprinted: two digits that decide only where new units will begin, and which libraries
    # made the pixels, which is for people.
    assert set(harmless) <= {"view_set.json"}
    assert sum(harmless.values()) <= 2 + len(canonical_json(renderer_versions()))
    assert not verified(cache.uri).all_findings


def test_every_object_that_is_missing_or_shorter_is_named(tmp_path: Path) -> None:
    cache = write_cache(str(tmp_path), units=(UNIT,), outputs=("logits",))
    for path in [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]:
        good = path.read_bytes()
        for kept in (len(good) - 1, len(good) // 2, 0):
            path.write_bytes(good[:kept])
            assert str(path) in {each.location for each in verified(cache.uri).all_findings}, (path, kept)
        path.unlink()
        locations = {each.location for each in verified(cache.uri).all_findings}
        if "commits" in path.parts:  # a unit without a record does not exist; but targets then have no views
            assert bool(locations) == ("views" in path.parts)
        else:
            assert any(str(path).startswith(each) for each in locations), path
        path.write_bytes(good)
    assert not verified(cache.uri).all_findings
