"""Makes tests/golden/cache_v1_codecs: format version 1 with every codec, kept pixels, manifests and a transform.

    python tests/golden/make_cache_v1_codecs.py

Run once, by the code that wrote them first. Never run again: what is new gets a golden cache of its own.
"""

import sys
from pathlib import Path

import numpy as np

from kd_ray.cache.codecs import Coding
from kd_ray.cache.fold import seal
from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec, output_spec, target_set_spec
from kd_ray.cache.target_set import Output, open_output
from kd_ray.cache.transforms import freeze_phi_s
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import open_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import CenterCrop, Policy
from kd_ray.views import KeptView, ViewRow, decode_pixels, encode_pixels, prove
from kd_ray.views.kept import WHOLE

CACHE = Path(__file__).parent / "cache_v1_codecs"
CORPUS_ID = "00000000000000000000000000000002"
IDS = np.array([5, 2**63, 2**64 - 1, 9], dtype=np.uint64)
UNITS = tuple(
    Unit(span=Span(shard="train-00000", group_start=0, group_stop=2), view_start=start, view_stop=start + 2)
    for start in (0, 2)
)
CODINGS = {
    "summary bfloat16": Coding(codec="bfloat16", shape=(6,)),
    "summary int8": Coding(codec="int8", shape=(6,)),
    "spatial int8 basis": Coding(codec="int8", shape=(2, 2, 6), explained_variance=0.9),
    "spatial float16 basis": Coding(codec="float16", shape=(2, 2, 6), explained_variance=0.8),
    "logits uint8": Coding(codec="uint8", shape=(7,)),
    "logits top_k": Coding(codec="top_k", shape=(300,), k=3, temperatures=(1.0, 2.0, 4.0)),
}
KEPT = {
    "raw": KeptFormat(size_px=(6, 5), codec="raw", quality=None),
    "jpeg": KeptFormat(size_px=(6, 5), codec="jpeg", quality=95),
    "webp": KeptFormat(size_px=(6, 5), codec="webp", quality=100),
}
POLICY = Policy(name="whole", operations=(CenterCrop(kind="center_crop"),))


def pixels_of(sample_id: int, view_index: int) -> np.ndarray:
    """[6, 5, 3]: a smooth picture of its own for every view."""
    rows, columns, channels = np.meshgrid(np.arange(6), np.arange(5), np.arange(3), indexing="ij")
    return ((20 * rows + 15 * columns + 40 * channels + 30 * view_index + sample_id % 7) % 256).astype(np.uint8)


def make_views(name: str, kept: KeptFormat) -> Spec:
    spec = Spec(
        name=f"golden-{name}",
        identity={"corpus_id": CORPUS_ID, "policy": "golden", "seed": 0, "kept": kept.identity()},
    )
    store = open_view_store(str(CACHE), spec, grid=Grid(unit_row_groups=2, unit_views=2))
    for unit in UNITS:
        rows, data = [], []
        for view_index in range(unit.view_start, unit.view_stop):
            for sample_id in map(int, IDS):
                data.append(encode_pixels(pixels_of(sample_id, view_index), kept))
                view = KeptView(params=(WHOLE,), pixels_HW3=decode_pixels(data[-1], kept, what=name))
                proof = prove(view, policy=POLICY)
                rows.append(ViewRow(sample_id=sample_id, view_index=view_index, params=(WHOLE,), proof=proof))
        store.write(unit, rows, IDS, attempt="attempt0", pixels=data)
    return spec


def make_output(target_set: Spec, title: str, coding: Coding) -> Output:
    spec = output_spec(title.split(maxsplit=1)[0], coding=coding, stage=None)
    output = open_output(str(CACHE), target_set, spec, create=True)
    generator = np.random.default_rng(len(title))
    mixing = generator.normal(size=(coding.shape[-1], coding.shape[-1]))
    values = [(3 + generator.normal(size=(2, len(IDS), *coding.shape)) @ mixing).astype(np.float32) for _ in UNITS]
    if coding.needs_calibration:
        output.calibrate(values[0])
    for unit, values_VND in zip(UNITS, values, strict=True):
        output.write(unit, values_VND, IDS, attempt="attempt0")
    return output


def main() -> None:
    if CACHE.exists():
        sys.exit(f"{CACHE}: is there, and stays as it is.")
    view_sets = [make_views(name, kept) for name, kept in KEPT.items()]
    target_set = target_set_spec(
        "teacher",
        teacher={"weights": "w"},
        view_set_fingerprint=view_sets[0].fingerprint,
        corpus_id=CORPUS_ID,
    )
    expected = {}
    for title, coding in CODINGS.items():
        output = make_output(target_set, title, coding)
        seal(output.collection, UNITS)
        commits = output.collection.commits()
        for unit, commit in commits.items():
            for view_index in range(unit.view_start, unit.view_stop):
                read = output.read(commit, view_index=view_index, sample_ids=IDS)
                expected[f"{title} {view_index}"] = read
        if title == "summary int8":
            frozen = freeze_phi_s(output, commits.values, cache_uri=str(CACHE), version=1)
            expected["phi_s"] = frozen.open().apply(expected[f"{title} 0"])
    for view_index in range(4):
        for sample_id in map(int, IDS):
            data = encode_pixels(pixels_of(sample_id, view_index), KEPT["jpeg"])
            expected[f"jpeg {sample_id} {view_index}"] = decode_pixels(data, KEPT["jpeg"], what="jpeg")
    np.savez_compressed(CACHE.with_name("cache_v1_codecs.npz"), **expected)


if __name__ == "__main__":
    main()
