"""Kept pixels on storage: they come back view by view from one range each, and damage is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.commits import Commit
from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.view_store import PIXELS_OBJECT, ViewStore, open_view_store
from kd_ray.errors import CacheCorrupt
from kd_ray.storage import LocalStorage
from kd_ray.views import FlipParams, Proof, ViewRow
from tests.support.tiny_cache import IDS, UNIT

SPEC = Spec(name="digits-train", identity={"policy": "digits", "seed": 0})
GRID = Grid(unit_row_groups=2, unit_views=2)
NUM_ROWS = len(IDS)


def _pixels(view: int) -> list[bytes]:
    return [bytes([view, row]) * (40 + row) for row in range(NUM_ROWS)]


@pytest.fixture
def store(tmp_path: Path) -> ViewStore:
    opened = open_view_store(str(tmp_path), SPEC, grid=GRID)
    rows = [
        ViewRow(
            sample_id=sample_id,
            view_index=view,
            params=(FlipParams(flipped=True),),
            proof=Proof(digest=bytes(16), thumbnail=None),
        )
        for view in (0, 1)
        for sample_id in IDS.tolist()
    ]
    assert opened.write(UNIT, rows, IDS, attempt="a0", pixels=_pixels(0) + _pixels(1))
    return opened


@pytest.fixture
def commit(store: ViewStore) -> Commit:
    found = store.collection.find(UNIT)
    assert found is not None
    return found


def _path(store: ViewStore, commit: Commit) -> Path:
    return Path(store.collection.storage.uri) / store.collection.object_name(commit, PIXELS_OBJECT)


def test_pixels_come_back_view_by_view(store: ViewStore, commit: Commit) -> None:
    for view in (1, 0):
        assert store.pixels(commit, view, sample_ids=IDS) == _pixels(view)
        assert [row.view_index for row in store.rows(commit, view)] == [view] * NUM_ROWS


class CountingStorage(LocalStorage):
    """Notes the ranges that are read."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, name: str, *, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        return super().read_range(name, offset=offset, length=length)


def test_a_view_is_one_range_once_the_footer_is_known(store: ViewStore, commit: Commit) -> None:
    storage = CountingStorage(store.collection.storage.uri)
    counted = replace(store, collection=replace(store.collection, storage=storage))
    counted.pixels(commit, 0, sample_ids=IDS)
    storage.ranges.clear()
    for view in (0, 1):
        counted.pixels(commit, view, sample_ids=IDS)
    (first, first_length), (second, second_length) = storage.ranges
    assert first + first_length <= second
    assert second + second_length <= commit.objects[PIXELS_OBJECT][0]
    assert second_length >= sum(map(len, _pixels(1)))


def test_a_flipped_byte_of_the_view_or_the_footer_is_detected_and_named(store: ViewStore, commit: Commit) -> None:
    path = _path(store, commit)
    good = path.read_bytes()
    unnoticed = []
    for position in range(len(good) // 8, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        path.write_bytes(bad)
        afresh = replace(store)  # which knows no footer
        try:
            assert afresh.pixels(commit, 1, sample_ids=IDS) == _pixels(1)
            unnoticed.append(position)
        except CacheCorrupt as error:
            assert str(error).startswith(f"{path}: damaged: ")  # noqa: PT017
    end_of_other_view = good.index(_pixels(0)[-1]) + len(_pixels(0)[-1])
    in_its_pages = [position for position in unnoticed if position >= end_of_other_view]
    # what pages say of themselves that nobody needs, such as how many bytes they would have uncompressed
    assert len(in_its_pages) <= 3
    assert max(in_its_pages, default=0) < len(good) - commit.footers[PIXELS_OBJECT][0]


def test_every_flipped_byte_of_the_pixels_is_detected(store: ViewStore, commit: Commit) -> None:
    path = _path(store, commit)
    good = path.read_bytes()
    start = good.index(_pixels(1)[3])
    for position in range(start, start + len(_pixels(1)[3]), 5):
        bad = bytearray(good)
        bad[position] ^= 0x01
        path.write_bytes(bad)
        with pytest.raises(CacheCorrupt, match="damaged"):
            store.pixels(commit, 1, sample_ids=IDS)
        assert store.pixels(commit, 0, sample_ids=IDS) == _pixels(0)


def test_a_missing_object_is_named(store: ViewStore, commit: Commit) -> None:
    path = _path(store, commit)
    path.unlink()
    with pytest.raises(CacheCorrupt, match=f"{path}: damaged: is missing, though its unit is committed"):
        store.pixels(commit, 0, sample_ids=IDS)


def test_a_commit_without_kept_pixels_is_named(store: ViewStore, commit: Commit) -> None:
    without = replace(commit, objects={})
    with pytest.raises(CacheCorrupt, match="the commit of its unit names no such object"):
        store.pixels(without, 0, sample_ids=IDS)


def test_pixels_of_other_samples_are_refused(store: ViewStore, commit: Commit) -> None:
    others = np.array([*IDS[:-1], 99], np.uint64)
    with pytest.raises(CacheCorrupt, match="was made from other samples than the corpus holds there"):
        store.pixels(commit, 0, sample_ids=others)


def test_a_shorter_object_is_refused(store: ViewStore, commit: Commit) -> None:
    path = _path(store, commit)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CacheCorrupt, match="damaged"):
        store.pixels(commit, 0, sample_ids=IDS)
