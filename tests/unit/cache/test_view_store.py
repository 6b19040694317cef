"""A view set on storage: its views come back, its first grid stays, and another one is refused."""

from pathlib import Path

import pytest

from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.view_store import ViewStore, find_view_store, open_view_store
from kd_ray.errors import CacheCorrupt
from kd_ray.views import FlipParams, Proof, ViewRow
from tests.support.tiny_cache import IDS, UNIT

SPEC = Spec(name="digits-train", identity={"policy": "digits", "seed": 0})
GRID = Grid(unit_row_groups=2, unit_views=2)


def _proof(view: int, row: int) -> Proof:
    return Proof(digest=bytes([view, row]) * 8, thumbnail=bytes([row, view]) * 96)


@pytest.fixture
def store(tmp_path: Path) -> ViewStore:
    opened = open_view_store(str(tmp_path), SPEC, grid=GRID)
    rows = [
        ViewRow(
            sample_id=int(sample_id),
            view_index=view,
            params=(FlipParams(flipped=bool(row % 2)),),
            proof=_proof(view, row),
        )
        for view in range(UNIT.view_start, UNIT.view_stop)
        for row, sample_id in enumerate(IDS)
    ]
    assert opened.write(UNIT, rows, IDS, attempt="a0")
    return opened


def _table_path(store: ViewStore) -> Path:
    commit = store.collection.commits()[UNIT]
    return Path(store.collection.storage.uri) / store.collection.object_name(commit, "views.parquet")


def test_proofs_come_back_view_by_view_in_the_order_of_the_rows(store: ViewStore) -> None:
    commit = store.collection.commits()[UNIT]
    assert store.proofs(commit, 1) == [_proof(1, row) for row in range(len(IDS))]


def test_its_units_are_those_committed(store: ViewStore) -> None:
    assert store.units() == [UNIT]


def test_the_first_grid_stays(store: ViewStore, tmp_path: Path) -> None:
    again = open_view_store(str(tmp_path), SPEC, grid=Grid(unit_row_groups=5, unit_views=7))
    found = find_view_store(str(tmp_path), SPEC)
    assert again.grid == GRID
    assert found is not None
    assert found.grid == GRID


def test_where_the_corpus_lies_is_recorded_for_readers_elsewhere_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "local": ("packed", str(tmp_path / "packed")),
        "remote": ("s3://bucket/packed", "s3://bucket/packed"),
        "secret": ("http://me:secret@host/packed", None),
    }
    for name, (uri, recorded) in given.items():
        spec = Spec(name=name, identity={"policy": "digits"})
        open_view_store(str(tmp_path), spec, grid=GRID, corpus_uri=uri)
        found = find_view_store(str(tmp_path), spec)
        assert found is not None
        assert found.corpus_uri == recorded
    assert not [path for path in tmp_path.rglob("*.json") if b"secret@" in path.read_bytes()]


def test_another_view_set_is_not_found(store: ViewStore, tmp_path: Path) -> None:
    assert find_view_store(str(tmp_path), Spec(name=SPEC.name, identity={"policy": "digits", "seed": 1})) is None


def test_a_changed_byte_of_the_table_is_detected_and_named(store: ViewStore) -> None:
    path = _table_path(store)
    good = path.read_bytes()
    commit = store.collection.commits()[UNIT]
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        path.write_bytes(bad)
        with pytest.raises(CacheCorrupt, match=f"{path}: does not match its commit record"):
            store.proofs(commit, 0)


def test_a_missing_table_of_a_committed_unit_is_corruption(store: ViewStore) -> None:
    _table_path(store).unlink()
    with pytest.raises(CacheCorrupt, match="is missing, though its unit is committed"):
        store.proofs(store.collection.commits()[UNIT], 0)
