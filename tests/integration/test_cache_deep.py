"""`kd-ray cache verify --deep` against a real network: what it gave passes, what another one gave does not."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.units import Unit
from kd_ray.cache.verify import verify
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.extraction.repair import path_of_output
from kd_ray.views import ViewRow
from pipelines.cache.deep import DeepRequest
from pipelines.cache.verify import verify_cache
from pipelines.stages.plan import CachePlan
from tests.support.processes import run
from tests.support.tiny_recipe import filled, write_recipe
from tests.support.tiny_world import save_teacher

CODECS: dict[str, dict[str, Any]] = {
    "exact": {},
    "halves": {"summary": {"codec": "bfloat16"}, "spatial": {"codec": "float16"}, "logits": {"codec": "float16"}},
    "bytes": {"summary": {"codec": "int8"}, "spatial": {"codec": "int8"}, "logits": {"codec": "uint8"}},
    "reduced": {"spatial": {"codec": "int8", "pool": 2, "basis": {"explained_variance": 0.9}}, "logits": {}},
    "greatest": {"logits": {"codec": "top_k", "k": 2, "temperatures": [1.0, 4.0]}},
}


def deep(path: Path, uri: str, capsys: pytest.CaptureFixture[str], **request: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and what `--json` tells."""
    name = request.pop("name", None)
    asked = DeepRequest(recipe=path, **request)
    status = verify_cache(uri, name, deep=asked, console=Console(), as_json=True)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, told


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_the_teacher_gave_is_within_the_tolerance_in_another_batch(
    tmp_path: Path,
    tiny_corpus: PackedCorpus,
    tiny_teacher: KnownTeacher,
    capsys: pytest.CaptureFixture[str],
    codecs: str,
    precision: str,
) -> None:
    changes = {"teacher": {"outputs": CODECS[codecs], "precision": precision}}
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher, changes=changes)
    recipe, plan = filled(path)
    changes = {**changes, "teacher": {**changes["teacher"], "resources": {"batch_size_per_worker": 5}}}
    write_recipe(tmp_path, tiny_corpus, tiny_teacher, changes=changes)
    status, told = deep(path, recipe.cache.uri, capsys, num_samples=24)
    assert (status, told["findings"]) == (0, [])
    paths = {path_of_output(each, spec) for each in plan.all for spec in each.job.outputs.values()}
    assert set(told["deep"]["worst_error"]) == paths
    assert told["deep"]["targets"] == 24 * len(plan.all)
    assert max(told["deep"]["worst_error"].values()) < (1e-4 if precision == "float32" else 5e-2)


@pytest.mark.parametrize("codecs", CODECS)
def test_a_unit_of_other_weights_is_found_though_every_checksum_is_right(
    tmp_path: Path,
    tiny_corpus: PackedCorpus,
    tiny_teacher: KnownTeacher,
    capsys: pytest.CaptureFixture[str],
    codecs: str,
) -> None:
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher, changes={"teacher": {"outputs": CODECS[codecs]}})
    recipe, plan = filled(path)
    for name in ("summary", "logits"):
        where, forged = forge(plan, name, save_teacher(tmp_path, seed=1))
    catalog = read_catalog(recipe.cache.uri)
    assert not verify(catalog, catalog.entries, report=lambda done, total: None).all_findings
    status, told = deep(path, recipe.cache.uri, capsys, num_samples=10_000)
    assert status == 1
    assert len(told["findings"]) == 2
    for found in told["findings"]:
        assert f"unit {forged.id}: " in found["problem"]
        assert "recomputed targets are off, the worst that of sample " in found["problem"]
        assert "deviations, tolerance 0.001." in found["problem"]
    assert where in {found["object"].rsplit("/targets/")[1] for found in told["findings"]}
    (other,) = plan.evaluation.values()
    assert told["deep"]["worst_error"][path_of_output(other, other.job.outputs["logits"])] < 1e-4
    status, told = deep(path, recipe.cache.uri, capsys, num_samples=10_000, tolerance=1e6)
    assert (status, told["findings"]) == (0, [])


def forge(plan: CachePlan, name: str, other: KnownTeacher) -> tuple[str, Unit]:
    """The last training unit of an output gets the values of `other`, as a generation of its own; path and unit."""
    (target_plan,) = plan.training[""].values()
    job = target_plan.job
    entry = read_catalog(job.cache_uri).outputs[path_of_output(target_plan, job.outputs[name])]
    commits = entry.collection.commits()
    unit = max(commits)
    values = values_of(target_plan, other, unit)[name]
    assert entry.write(unit, values, entry.sample_ids(commits[unit]), attempt="forged", generation=1)
    return path_of_output(target_plan, job.outputs[name]).removeprefix("targets/"), unit


def values_of(target_plan: Any, other: KnownTeacher, unit: Unit) -> dict[str, Any]:
    """[view, sample, …] as `other` gives them."""
    from kd_ray.extraction.job import build_renderer, load_frozen

    job = replace(target_plan.job, weights_uri=other.weights_uri, weights_fingerprint=other.weights_fingerprint)
    teacher = load_frozen(job, device="cpu", batch_size=64)
    renderer = build_renderer(job)
    rows = renderer.open(unit, None, with_images=True)
    pixels = np.stack([rows.render(row)[1][0] for row in range(len(rows.sample_ids))], axis=1)
    return {
        name: value.reshape(*pixels.shape[:2], *value.shape[1:])
        for name, value in teacher(pixels.reshape(-1, *pixels.shape[2:])).items()
    }


@pytest.mark.parametrize("keep", ["params", "pixels"])
def test_views_that_are_not_those_drawn_are_found(
    tmp_path: Path,
    tiny_corpus: PackedCorpus,
    tiny_teacher: KnownTeacher,
    capsys: pytest.CaptureFixture[str],
    keep: str,
) -> None:
    kept = {"keep": "pixels", "pixels_size_px": [32, 32], "pixels_codec": "jpeg"} if keep == "pixels" else {}
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher, changes={"views": kept})
    recipe, plan = filled(path)
    assert deep(path, recipe.cache.uri, capsys, num_samples=16)[0] == 0
    (target_plan,) = plan.training[""].values()
    store = read_catalog(recipe.cache.uri).view_sets[f"views/{target_plan.view_set.spec.folder}"]
    commits = store.collection.commits()
    unit, commit = next(iter(commits.items()))
    rows = store.rows(commit)
    ids = np.array([row.sample_id for row in rows[: commit.num_rows]], np.uint64)
    swapped = [_with_proof_of(row, rows[(number + 1) % len(rows)]) for number, row in enumerate(rows)]
    pixels = None
    if kept:
        pixels = [each for view in (0, 1) for each in store.pixels(commit, view, sample_ids=ids)]
    assert store.write(unit, swapped, ids, attempt="forged", pixels=pixels, generation=1)
    status, told = deep(path, recipe.cache.uri, capsys, num_samples=10_000)
    assert status == 1
    (found,) = told["findings"]
    assert found["object"].endswith(target_plan.view_set.spec.folder)
    assert f"{len(rows)} of {len(rows)} views that were rendered again are off" in found["problem"]
    assert "digest got" in found["problem"]


def _with_proof_of(row: ViewRow, other: ViewRow) -> ViewRow:
    return replace(row, proof=other.proof)


def test_a_recipe_of_another_teacher_is_refused_with_the_difference(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher)
    recipe, _ = filled(path)
    with pytest.raises(RecipeError, match="has nothing called views/ here; what it has is targets/"):
        deep(path, recipe.cache.uri, capsys, name="views/")
    write_recipe(tmp_path, tiny_corpus, save_teacher(tmp_path, seed=1))
    with pytest.raises(RecipeError, match=r"first difference: teacher\.weights: "):
        deep(path, recipe.cache.uri, capsys)


def test_the_command_runs_in_its_own_process_and_takes_overrides(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher)
    recipe, _ = filled(path)
    command = [sys.executable, "-c", "from kd_ray.cli import main; main()", "cache", "verify", recipe.cache.uri]
    command += ["--deep", str(path), "--samples", "3"]
    done = run([*command, "--set", "out=elsewhere", "--set", "cache.uri=nowhere"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 views rendered and computed again; worst error in deviations: " in done.stdout
    done = run([*command, "--set", "teacher.precision=float16"])
    assert done.returncode == 2
    assert "first difference: teacher.precision: 'float32' -> 'float16'" in " ".join(done.stderr.split())


def test_what_is_asked_for_wrongly_is_refused(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher)
    recipe, _ = filled(path)
    for wrong, told in (
        ({"num_samples": 0}, "--samples: got 0"),
        ({"tolerance": float("nan")}, "--tolerance: got nan"),
        ({"device": "abacus"}, "--device: got abacus"),
    ):
        with pytest.raises(RecipeError, match=told):
            deep(path, recipe.cache.uri, capsys, **wrong)
