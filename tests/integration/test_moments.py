"""Folded second moments: equal to those of the stored tokens in any order of units, read once, few objects."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_ray.cache import moments
from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.codecs import Coding
from kd_ray.cache.commits import Commit
from kd_ray.cache.garbage import find_garbage, remove_garbage
from kd_ray.cache.moments import FAN_IN, moments_of, read_folded, superseded
from kd_ray.cache.second_moments import SecondMoments, token_positions
from kd_ray.cache.spec import output_spec
from kd_ray.cache.target_set import Output, open_output
from kd_ray.cache.units import Unit
from kd_ray.cache.verify import verify
from kd_ray.config.outputs import Codec
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from tests.support.tiny_cache import IDS, target_set, unit

SHAPE = (4, 5, 3)
UNITS = [unit(start, start + 2) for start in range(0, 8, 2)]


def values_of(of: Unit) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Far from zero, and each unit about a place of its own."""
    random = np.random.default_rng(of.view_start)
    offset = 1e4 + 100 * of.view_start
    return random.normal(offset, [1, 5, 0.1], (of.num_views, len(IDS), *SHAPE)).astype(np.float32)


def spatial(cache_uri: Path, *, codec: Codec = "float32") -> Output:
    spec = output_spec("spatial", coding=Coding(codec=codec, shape=SHAPE), stage=-1)
    return open_output(str(cache_uri), target_set(), spec, create=True)


def write(output: Output, units: Sequence[Unit], *, generation: int = 0) -> None:
    for each in units:
        if output.must_be_calibrated():
            output.calibrate(values_of(each))
        output.write(each, values_of(each), IDS, attempt=f"a{generation}", generation=generation)


def commits(output: Output) -> list[Commit]:
    return list(output.collection.commits().values())


def two_passes(output: Output, units: Sequence[Unit]) -> SecondMoments:
    """Over the same tokens, read as any reader reads them."""
    tokens = []
    for each in units:
        commit = output.collection.commits()[each]
        for view in range(each.view_start, each.view_stop):
            values = output.read(commit, view_index=view, sample_ids=IDS).reshape(len(IDS), -1, SHAPE[-1])
            positions = token_positions(IDS, view, num_tokens=SHAPE[0] * SHAPE[1])
            tokens.append(np.take_along_axis(values, positions[..., None], axis=1).reshape(-1, SHAPE[-1]))
    return SecondMoments.of(np.concatenate(tokens).astype(np.longdouble))


def assert_same(found: SecondMoments, expected: SecondMoments) -> None:
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean_D, expected.mean_D, rtol=1e-12)
    deviation_D = np.sqrt(np.diag(expected.scatter_DD))
    assert np.abs(found.scatter_DD - expected.scatter_DD).max() <= 1e-6 * deviation_D.min() ** 2


def objects(output: Output) -> dict[str, bytes]:
    folder = Path(output.collection.storage.uri) / output.collection.folder / "moments"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
def test_they_are_those_of_the_stored_tokens_in_any_order(tmp_path: Path, codec: Codec) -> None:
    output = spatial(tmp_path, codec=codec)
    write(output, UNITS)
    expected = two_passes(output, UNITS)
    assert expected.count == 8 * len(IDS) * 2 * len(UNITS)
    assert_same(moments_of(output, commits(output)), expected)
    other = spatial(tmp_path / "other", codec=codec)
    write(other, UNITS)
    for stop in (1, 3, len(UNITS)):  # the last units first, some at a time
        found = moments_of(other, commits(other)[::-1][:stop])
    assert_same(found, expected)


def test_each_unit_is_read_once(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    write(output, UNITS[:2])
    first = moments_of(output, commits(output))
    for path in (tmp_path / "targets").rglob("values/c/*/*/*/*/*"):
        path.unlink()
    again = moments_of(output, commits(output))
    np.testing.assert_array_equal(again.scatter_DD, first.scatter_DD)
    write(output, UNITS[2:])
    assert_same(moments_of(output, commits(output)), moments_of(output, commits(output)))


def test_a_unit_that_is_repaired_is_read_again(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    write(output, UNITS)
    before = objects_after(output)
    write(output, UNITS[:1], generation=1)
    assert_same(moments_of(output, commits(output)), two_passes(output, UNITS))
    assert len(objects(output)) == len(before) + 1


def objects_after(output: Output) -> dict[str, bytes]:
    moments_of(output, commits(output))
    return objects(output)


def test_growth_folds_what_is_there_and_changes_nothing(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    units = [unit(view, view + 1) for view in range(2 * FAN_IN)]
    known: dict[str, bytes] = {}
    for number, each in enumerate(units, start=1):
        write(output, [each])
        found = objects_after(output)
        assert known.items() <= found.items()
        known = found
        standing = known.keys() - {name.rsplit("/", 1)[-1] for name in superseded(output)}
        assert len(standing) <= FAN_IN
        covered = [folded.attempts for name, folded in read_folded(output) if name.rsplit("/", 1)[-1] in standing]
        assert sum(map(len, covered)) == number
    assert_same(moments_of(output, commits(output)), two_passes(output, units))
    for name in superseded(output):
        output.collection.storage.remove(name)
    assert_same(moments_of(output, commits(output)), two_passes(output, units))


def test_fewer_units_than_were_folded_are_told_apart(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    write(output, UNITS)
    objects_after(output)
    some = [each for each in commits(output) if each.unit in UNITS[1:3]]
    assert_same(moments_of(output, some), two_passes(output, UNITS[1:3]))


def test_what_was_computed_before_a_crash_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "UNITS_AN_OBJECT", 1)
    output = spatial(tmp_path)
    write(output, UNITS)
    last = max(commits(output), key=lambda each: each.unit)
    damaged = Path(output.collection.storage.uri) / output.collection.object_name(
        last, last.arrays["values"].object_name
    )
    whole = damaged.read_bytes()
    damaged.write_bytes(bytes(len(whole)))
    with pytest.raises(CacheCorrupt, match="repair"):
        moments_of(output, commits(output))
    assert len(objects(output)) == len(UNITS) - 1
    damaged.write_bytes(whole)
    assert_same(moments_of(output, commits(output)), two_passes(output, UNITS))


def test_a_changed_byte_is_found_and_what_to_do_is_said(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    write(output, UNITS[:1])
    ((name, data),) = objects_after(output).items()
    (path,) = tmp_path.rglob(f"moments/{name}")
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
        with pytest.raises(CacheCorrupt, match=rf"{name}: .* Remove the file; what it holds is computed again"):
            moments_of(output, commits(output))
    path.unlink()
    assert objects_after(output) == {name: data}


def test_one_under_another_name_is_refused(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    write(output, UNITS[:1])
    ((name, _),) = objects_after(output).items()
    (path,) = tmp_path.rglob(f"moments/{name}")
    path.rename(path.with_name("1-" + "0" * 32))
    with pytest.raises(CacheCorrupt, match=f"belongs under the name {name}"):
        moments_of(output, commits(output))


def test_of_nothing_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(CacheIncomplete, match="has no units yet"):
        moments_of(spatial(tmp_path), [])


def test_verify_names_a_damaged_object_and_gc_takes_superseded_ones(tmp_path: Path) -> None:
    output = spatial(tmp_path)
    for number in range(FAN_IN + 1):
        write(output, [unit(number, number + 1)])
        moments_of(output, commits(output))
    catalog = read_catalog(str(tmp_path))
    (path,) = catalog.outputs
    garbage = find_garbage(catalog, before_s=time.time() + 1)
    names = {each.path.rsplit("/", 1)[-1] for each in garbage}
    assert len(names) == FAN_IN + 1
    assert names == {name for name in objects(output) if not name.startswith(f"{FAN_IN + 1}-")}
    remove_garbage(str(tmp_path), garbage)
    ((name, data),) = objects(output).items()
    (damaged,) = tmp_path.rglob(f"moments/{name}")
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = verify(catalog, {path: output}, report=lambda done, total: None).findings[path]
    (finding,) = (each for each in found if "moments/" in each.location)
    assert finding.location == output.collection.location(f"{output.collection.folder}/moments/{name}")
    assert "Remove the file" in finding.problem
