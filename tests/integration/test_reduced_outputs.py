"""Pooled grids and coefficients in a basis, from the teacher through the cache to what a loss sees."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.target_set import Output, open_output
from kd_ray.cache.transforms import freeze_phi_s
from kd_ray.cache.verify import verify
from kd_ray.config.outputs import Outputs
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.training.encoded import EncodedTargets
from pipelines.cache.show import show_entry
from pipelines.stages.finetune import teacher_shapes
from tests.support.tiny_world import NUM_CLASSES, TEACHER_SIZE_PX, extract, plan_teacher, plan_views

NUM_VIEWS = 2


def storing(teacher: KnownTeacher, **outputs: Any) -> KnownTeacher:
    config = teacher.config.model_copy(update={"outputs": Outputs.model_validate(outputs)})
    names = config.outputs.names()
    shapes = teacher_shapes(config, names, num_classes=NUM_CLASSES, size_px=TEACHER_SIZE_PX)
    return replace(teacher, config=config, shapes=shapes)


def stored(teacher: KnownTeacher, corpus: PackedCorpus, cache: Path, output: str = "spatial") -> TargetPlan:
    views = plan_views(corpus, cache, num_views=NUM_VIEWS)
    plan = plan_teacher(teacher, views, corpus, cache, outputs=(output,))
    extract(plan)
    assert not plan_teacher(teacher, views, corpus, cache, outputs=(output,)).missing
    return plan


def opened(plan: TargetPlan, output: str = "spatial") -> Output:
    job = plan.job
    return open_output(job.cache_uri, job.target_set, job.outputs[output], create=False)


def values(output: Output) -> np.ndarray[Any, np.dtype[Any]]:
    """[views of all units, …], as readers get them."""
    parts = []
    for unit, commit in sorted(output.collection.commits().items()):
        ids = output.sample_ids(commit)
        parts += [
            output.read(commit, view_index=view, sample_ids=ids) for view in range(unit.view_start, unit.view_stop)
        ]
    return np.concatenate(parts)


def test_a_pooled_grid_is_the_mean_of_its_blocks_in_the_cache_and_live(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    full = values(opened(stored(storing(tiny_teacher, spatial={"codec": "float32"}), tiny_corpus, tmp_path / "full")))
    teacher = storing(tiny_teacher, spatial={"codec": "float32", "pool": 2})
    plan = stored(teacher, tiny_corpus, tmp_path / "pooled")
    output = opened(plan)
    assert output.shape == teacher.shapes["spatial"] == (4, 4, 64)
    assert output.spec.identity["pool"] == 2
    blocks = [full[:, row::2, column::2].astype(np.float64) for row in (0, 1) for column in (0, 1)]
    np.testing.assert_allclose(values(output), sum(blocks) / 4, rtol=1e-4, atol=1e-5)

    live = FrozenTeacher(
        teacher.config, num_classes=NUM_CLASSES, weights_uri=teacher.weights_uri, device="cpu", batch_size=4
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, *TEACHER_SIZE_PX, 3), dtype=np.uint8)
    assert live(pixels)["spatial"].shape == (3, 4, 4, 64)


def test_a_factor_that_does_not_divide_the_grid_is_refused(tiny_teacher: KnownTeacher) -> None:
    with pytest.raises(RecipeError, match=r"outputs.spatial.pool: got 3, which does not divide the grid of 8x8 that"):
        storing(tiny_teacher, spatial={"pool": 3})


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_coefficients_give_the_values_back_but_for_the_share_that_is_left_out(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path, codec: str
) -> None:
    share = 0.95
    exact = values(opened(stored(storing(tiny_teacher, spatial={"codec": "float32"}), tiny_corpus, tmp_path / "a")))
    reduced = storing(tiny_teacher, spatial={"codec": codec, "basis": {"explained_variance": share}})
    plan = stored(reduced, tiny_corpus, tmp_path / "b")
    output = opened(plan)
    found = values(output)
    assert found.shape == exact.shape
    exact_XD, found_XD = exact.reshape(-1, 64).astype(np.float64), found.reshape(-1, 64)
    lost = ((found_XD - exact_XD) ** 2).sum() / ((exact_XD - exact_XD.mean(axis=0)) ** 2).sum()
    assert 0.5 * (1 - share) < lost < 1.5 * (1 - share)  # the basis is of 16 of the 240 views
    commits = list(output.collection.commits().values())
    # statistics are of what the teacher said
    np.testing.assert_allclose(output.statistics(commits).mean, exact_XD.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert plan.committed_bytes() < 0.6 * exact_XD.size * {"float16": 2, "int8": 1}[codec]

    commit = commits[0]
    arrays = output.read_encoded(commit, view_index=commit.unit.view_start, sample_ids=output.sample_ids(commit))
    encoded = EncodedTargets(
        coding=output.coding,
        calibration=output.fixed_calibration(),
        arrays={name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
    ).to(torch.device("cpu"))
    assert isinstance(encoded, torch.Tensor)
    np.testing.assert_allclose(encoded, found[: len(encoded)], rtol=0, atol=1e-5)


def test_it_is_found_whole_and_shown_and_a_damaged_basis_is_named(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    reduced = storing(tiny_teacher, spatial={"pool": 2, "basis": {"explained_variance": 0.9}})
    plan = stored(reduced, tiny_corpus, tmp_path)
    catalog = read_catalog(str(tmp_path))
    (path,) = catalog.outputs
    assert verify(catalog, catalog.entries, report=lambda done, total: None).all_findings == []
    output = opened(plan)
    calibration = output.calibration()
    assert calibration is not None
    assert calibration.basis is not None
    freeze_phi_s(output, output.collection.commits().values, cache_uri=str(tmp_path), version=1)
    with (tmp_path / "shown").open("w") as file:
        show_entry(str(tmp_path), path, console=Console(file=file, width=500), as_json=False)
    text = (tmp_path / "shown").read_text()
    shown = json.loads(text[: text.index("\n}") + 2])
    components = len(calibration.basis.directions_kD)
    assert shown["bytes_per_view"] == 4 * 4 * components * 2
    assert shown["basis"] == {
        "components": components,
        "unexplained_variance": calibration.basis.unexplained,
        "tokens": 2 * 8 * 16,
    }
    # what comes from coefficients varies in as many directions
    num_views = tiny_corpus.num_samples("train") * NUM_VIEWS
    assert shown["transforms"] == {"phi_s-1": {"tokens": 8 * num_views, "rank": components}}
    assert 0 < calibration.basis.unexplained <= 0.1
    (file,) = tmp_path.rglob("calibration.json")
    file.write_bytes(file.read_bytes().replace(b'"tokens":256', b'"tokens":255'))
    found = verify(catalog, {path: catalog.outputs[path]}, report=lambda done, total: None).all_findings
    assert [each.location for each in found] == [str(file)]


def test_too_few_vectors_for_a_basis_are_refused_before_anything_runs(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    reduced = storing(tiny_teacher, summary={"basis": {"explained_variance": 0.9}})
    views = plan_views(tiny_corpus, tmp_path, num_views=NUM_VIEWS)
    with pytest.raises(
        RecipeError, match=r"outputs.summary.basis: .* first 16 views, whose 16 vectors are too few for 64"
    ):
        plan_teacher(reduced, views, tiny_corpus, tmp_path, outputs=("summary",))
