"""Makes tests/golden/cache_v1, a cache of format version 1 that every later version must read.

    python tests/golden/make_cache_v1.py

Run once, by the code that wrote version 1. Never run again: a new format gets a golden cache of its own.
"""

import sys
from pathlib import Path

import numpy as np

from kd_ray.cache.codecs import Coding
from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec, output_spec, target_set_spec
from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import open_view_store
from kd_ray.views import CenterCropParams, CropParams, FlipParams, JitterParams, Proof, ViewParams, ViewRow

CACHE = Path(__file__).parent / "cache_v1"
IDS = np.array([0, 1, 2**64 - 1], dtype=np.uint64)
UNIT = Unit(span=Span(shard="train-00000", group_start=0, group_stop=2), view_start=0, view_stop=2)


def params_of(view: int) -> ViewParams:
    jitter = JitterParams(applied=True, brightness=1.1, contrast=0.9, saturation=1 / 3, hue=-0.05, order=(3, 0, 2, 1))
    crop = CropParams(left=0.1, top=0.25, width=2 / 3, height=0.5)
    return (crop, FlipParams(flipped=True), jitter) if view else (CenterCropParams(crop_fraction=0.875),)


def main() -> None:
    if CACHE.exists():
        sys.exit(f"{CACHE}: is there, and stays as it is.")
    corpus_id = "00000000000000000000000000000001"
    view_set = Spec(name="golden-train", identity={"corpus_id": corpus_id, "policy": "golden", "seed": 0})
    store = open_view_store(str(CACHE), view_set, grid=Grid(unit_row_groups=2, unit_views=2))
    rows = [
        ViewRow(
            sample_id=int(sample_id),
            view_index=view,
            params=params_of(view),
            proof=Proof(digest=bytes([view, row] * 8), thumbnail=None),
        )
        for view in range(2)
        for row, sample_id in enumerate(IDS)
    ]
    store.write(UNIT, rows, IDS, attempt="attempt0")
    target_set = target_set_spec(
        "teacher", teacher={"weights": "w"}, view_set_fingerprint=view_set.fingerprint, corpus_id=corpus_id
    )
    summary_VND = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / np.float32(3)
    logits_VNK = np.arange(-9, 9, dtype=np.float32).reshape(2, 3, 3) / np.float32(7)
    for spec, values in (
        (output_spec("summary", coding=Coding(codec="float32", shape=(2,)), stage=None), summary_VND),
        (output_spec("logits", coding=Coding(codec="float16", shape=(3,)), stage=None), logits_VNK),
    ):
        open_output(str(CACHE), target_set, spec, create=True).write(UNIT, values, IDS, attempt="attempt0")


if __name__ == "__main__":
    main()
