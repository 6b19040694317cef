"""Every codec, kept pixels, manifests and a transform as they were first written: they must read forever, and alike."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.spec import Spec, output_spec, target_set_spec
from kd_ray.cache.target_set import Output, find_output
from kd_ray.cache.transforms import FrozenTransform
from kd_ray.cache.verify import verify
from kd_ray.cache.view_store import find_view_store
from kd_ray.views import decode_pixels
from tests.golden.make_cache_v1_codecs import CACHE, CODINGS, CORPUS_ID, IDS, KEPT, UNITS, pixels_of

EXPECTED = np.load(CACHE.with_name("cache_v1_codecs.npz"))
PHI_S_DIGEST = "d25dacb8c317ffa224767301ef8d55f7"


def view_set(name: str) -> Spec:
    kept = KEPT[name].identity()
    return Spec(name=f"golden-{name}", identity={"corpus_id": CORPUS_ID, "policy": "golden", "seed": 0, "kept": kept})


TARGET_SET = target_set_spec(
    "teacher", teacher={"weights": "w"}, view_set_fingerprint=view_set("raw").fingerprint, corpus_id=CORPUS_ID
)


def output_of(title: str, cache: Path = CACHE) -> Output:
    spec = output_spec(title.split(maxsplit=1)[0], coding=CODINGS[title], stage=None)
    output = find_output(str(cache), TARGET_SET, spec)
    assert output is not None
    return output


@pytest.mark.parametrize("title", CODINGS)
@pytest.mark.parametrize("folded", [True, False], ids=["manifest", "records"])
def test_values(title: str, folded: bool, tmp_path: Path) -> None:
    shutil.copytree(CACHE / "targets", tmp_path / "targets")
    output = output_of(title, tmp_path)
    gone = tmp_path / "targets" / TARGET_SET.folder / output.spec.folder / ("commits" if folded else "manifest")
    shutil.rmtree(gone)
    for unit, commit in output.collection.commits(UNITS).items():
        for view in range(unit.view_start, unit.view_stop):
            found = output.read(commit, view_index=view, sample_ids=IDS)
            expected = EXPECTED[f"{title} {view}"]
            assert found.dtype == expected.dtype
            # a basis is a matrix product, whose sums have no fixed order
            np.testing.assert_allclose(found, expected, rtol=1e-5 if "basis" in title else 0, atol=1e-5)


@pytest.mark.parametrize("title", ["summary bfloat16", "summary int8", "logits uint8"])
def test_statistics_are_of_the_values_before_they_were_rounded(title: str) -> None:
    output = output_of(title)
    found = output.statistics(output.collection.commits().values())
    read = np.concatenate([EXPECTED[f"{title} {view}"] for view in range(4)])
    assert found.count == len(read)
    step = (read.max() - read.min()) / 100
    np.testing.assert_allclose(found.mean, read.mean(axis=0), atol=step)
    np.testing.assert_allclose(found.maximum, read.max(axis=0), atol=step)


def test_all_of_it_is_whole() -> None:
    catalog = read_catalog(str(CACHE))
    found = verify(catalog, catalog.entries, report=lambda done, total: None)
    assert (found.num_units, found.all_findings) == (len(UNITS) * (len(CODINGS) + len(KEPT)), [])


def test_a_frozen_transform() -> None:
    output = output_of("summary int8")
    frozen = FrozenTransform(
        cache_uri=str(CACHE), target_set=TARGET_SET, output=output.spec, version=1, digest=PHI_S_DIGEST
    )
    found = frozen.open().apply(EXPECTED["summary int8 0"])
    np.testing.assert_allclose(found, EXPECTED["phi_s"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "levels"), [("raw", 0), ("webp", 0), ("jpeg", 2)])  # of another libjpeg
def test_kept_pixels(name: str, levels: int) -> None:
    store = find_view_store(str(CACHE), view_set(name))
    assert store is not None
    for unit, commit in store.collection.commits().items():
        for view in range(unit.view_start, unit.view_stop):
            stored = store.pixels(commit, view, sample_ids=IDS)
            for sample_id, data in zip(map(int, IDS), stored, strict=True):
                found = decode_pixels(data, KEPT[name], what=name)
                expected = EXPECTED[f"jpeg {sample_id} {view}"] if name == "jpeg" else pixels_of(sample_id, view)
                assert np.abs(found.astype(int) - expected).max() <= levels
