"""The cache that version 1 wrote, committed beside the tests: it must read forever, to these very values."""

from pathlib import Path
from struct import unpack

import numpy as np
import pytest

from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import Output, find_output
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import ViewStore, find_view_store
from kd_ray.views import CenterCropParams, CropParams, FlipParams, JitterParams, decode_views

CACHE = Path(__file__).parents[2] / "golden" / "cache_v1"
CORPUS_ID = "00000000000000000000000000000001"
VIEW_SET_FINGERPRINT = "77a565e498bae66ed520b03850481774f3670b25964f92c0dcd5a31eda0b3d17"
VIEW_SET = Spec(name="golden-train", identity={"corpus_id": CORPUS_ID, "policy": "golden", "seed": 0})
TARGET_SET = Spec(
    name="teacher",
    identity={"format": 1, "corpus_id": CORPUS_ID, "view_set": VIEW_SET_FINGERPRINT, "teacher": {"weights": "w"}},
)
SUMMARY = Spec(
    name="summary", identity={"format": 1, "output": "summary", "shape": [2], "codec": "float32", "stage": None}
)
LOGITS = Spec(
    name="logits", identity={"format": 1, "output": "logits", "shape": [3], "codec": "float16", "stage": None}
)
UNIT = Unit(span=Span(shard="train-00000", group_start=0, group_stop=2), view_start=0, view_stop=2)
IDS = np.array([0, 1, 2**64 - 1], dtype=np.uint64)


def _output(spec: Spec) -> Output:
    output = find_output(str(CACHE), TARGET_SET, spec)
    assert output is not None
    return output


@pytest.fixture
def view_store() -> ViewStore:
    store = find_view_store(str(CACHE), VIEW_SET)
    assert store is not None
    return store


def test_float32_values() -> None:
    output = _output(SUMMARY)
    commit = output.collection.commits()[UNIT]
    found = [output.read(commit, view_index=view, sample_ids=IDS).tobytes().hex() for view in (0, 1)]
    # thirds: 0, 1/3, 2/3, … as little-endian float32
    assert found == [
        "00000000abaaaa3eabaa2a3f0000803fabaaaa3f5555d53f",
        "0000004055551540abaa2a400000404055555540abaa6a40",
    ]


def test_float16_values() -> None:
    output = _output(LOGITS)
    found = output.read(output.collection.commits()[UNIT], view_index=1, sample_ids=IDS)
    assert found.dtype == np.float16
    # sevenths, rounded to the nearest float16
    assert found.tolist() == [
        [0.0, 0.142822265625, 0.28564453125],
        [0.428466796875, 0.5712890625, 0.71435546875],
        [0.85693359375, 1.0, 1.142578125],
    ]


def test_statistics() -> None:
    output = _output(SUMMARY)
    statistics = output.statistics(output.collection.commits().values())
    assert statistics.count == 6
    assert statistics.mean.tolist() == pytest.approx([5 / 3, 2.0], rel=1e-7)
    assert statistics.variance.tolist() == pytest.approx([35 / 27, 35 / 27], rel=1e-7)
    assert statistics.minimum.tolist() == [0.0, unpack("<f", bytes.fromhex("abaaaa3e"))[0]]
    assert statistics.maximum.tolist() == [
        unpack("<f", bytes.fromhex("55555540"))[0],
        unpack("<f", bytes.fromhex("abaa6a40"))[0],
    ]


def test_the_commit() -> None:
    commit = _output(LOGITS).collection.commits()[UNIT]
    assert (commit.attempt, commit.generation, commit.num_rows) == ("attempt0", 0, 3)
    assert commit.members_digest == "24aefbb1436937e3fcf0af4eb0cb21b2"
    assert commit.arrays["values"].ranges == ((0, 22), (22, 22))


def test_the_grid_and_the_digests_of_the_views(view_store: ViewStore) -> None:
    assert view_store.grid == Grid(unit_row_groups=2, unit_views=2)
    commit = view_store.collection.commits()[UNIT]
    assert [proof.digest for proof in view_store.proofs(commit, 1)] == [bytes([1, row] * 8) for row in range(3)]


def test_the_params_of_the_views(view_store: ViewStore) -> None:
    commit = view_store.collection.commits()[UNIT]
    rows = decode_views(view_store.collection.storage.read(view_store.collection.object_name(commit, "views.parquet")))
    assert [(row.sample_id, row.view_index) for row in rows] == [(int(id_), view) for view in (0, 1) for id_ in IDS]
    assert rows[0].params == (CenterCropParams(crop_fraction=0.875),)
    assert rows[3].params == (
        CropParams(left=0.1, top=0.25, width=2 / 3, height=0.5),
        FlipParams(flipped=True),
        JitterParams(applied=True, brightness=1.1, contrast=0.9, saturation=1 / 3, hue=-0.05, order=(3, 0, 2, 1)),
    )
