"""`kd-ray cache diff` of a recipe against what a cache holds: nothing where it made it, else the field that differs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.extraction.repair import path_of_output, path_of_views
from pipelines.cache.diff import compare
from pipelines.stages.plan import CachePlan
from tests.support.processes import run
from tests.support.tiny_recipe import filled, write_recipe
from tests.support.tiny_world import files_below, save_teacher


@pytest.fixture
def made(tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher) -> tuple[Path, str, CachePlan]:
    """A recipe, the cache it has made, and its plan."""
    path = write_recipe(tmp_path, tiny_corpus, tiny_teacher)
    recipe, plan = filled(path)
    return path, recipe.cache.uri, plan


def told(
    old: object, new: object, capsys: pytest.CaptureFixture[str], *, overrides: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any]]:
    status = compare(str(old), str(new), overrides=overrides, show_all=True, console=Console(), as_json=True)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, document


def test_a_recipe_does_not_differ_from_what_it_made(
    made: tuple[Path, str, CachePlan], capsys: pytest.CaptureFixture[str]
) -> None:
    path, uri, plan = made
    before = files_below(Path(uri).parent)
    status, document = told(path, uri, capsys)
    assert status == 0
    expected = {path_of_views(each) for each in plan.all}
    expected |= {path_of_output(each, spec) for each in plan.all for spec in each.job.outputs.values()}
    assert {(each["old"], each["new"]) for each in document["pairs"]} == {(name, name) for name in expected}
    assert all(each["num_differences"] == 0 for each in document["pairs"])
    assert told(uri, path, capsys)[0] == told(path, path, capsys)[0] == 0
    assert files_below(Path(uri).parent) == before


def test_each_is_compared_with_the_nearest_of_the_cache(
    made: tuple[Path, str, CachePlan],
    tmp_path: Path,
    tiny_corpus: PackedCorpus,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, uri, plan = made
    (train,), (test,) = plan.training[""].values(), plan.evaluation.values()
    status, document = told(uri, path, capsys, overrides=("views.seed=4", "teacher.outputs.summary.codec=int8"))
    assert status == 1
    by_old = {each["old"]: each for each in document["pairs"]}
    assert by_old[path_of_views(train)]["differences"] == [{"field": "seed", "old": 3, "new": 4}]
    assert by_old[path_of_views(test)]["differences"] == []
    summary = by_old[path_of_output(train, train.job.outputs["summary"])]["differences"]
    assert {each["field"]: (each["old"], each["new"]) for each in summary if each["field"] != "calibration"} == {
        "codec": ("float16", "int8"),
        "target_set.view_set.seed": (3, 4),
    }

    (tmp_path / "other").mkdir()
    other = write_recipe(tmp_path / "other", tiny_corpus, save_teacher(tmp_path, seed=1))
    status, document = told(other, uri, capsys)
    assert status == 1
    fields = {
        name: [each["field"] for each in pair["differences"]] for pair in document["pairs"] for name in [pair["new"]]
    }
    outputs = {path_of_output(each, spec) for each in plan.all for spec in each.job.outputs.values()}
    assert {name: fields[name] for name in outputs} == {each: ["target_set.teacher.weights"] for each in outputs}


def test_a_folder_is_compared_with_what_the_recipe_has_like_it(
    made: tuple[Path, str, CachePlan], capsys: pytest.CaptureFixture[str]
) -> None:
    path, uri, plan = made
    (train,) = plan.training[""].values()
    target_set = f"targets/{train.job.target_set.folder}"
    for folder in (path_of_views(train), target_set, path_of_output(train, train.job.outputs["logits"])):
        assert told(f"{uri}/{folder}", path, capsys)[0] == 0
        status, document = told(path, f"{uri}/{folder}", capsys, overrides=("views.seed=4",))
        assert (status, document["new"]) == (1, folder)
        assert [(each["old"], each["new"]) for each in document["differences"]] == [(4, 3)]
        assert document["differences"][0]["field"].endswith("seed")


def test_what_the_cache_has_nothing_like_is_a_difference(
    made: tuple[Path, str, CachePlan], tmp_path: Path, tiny_corpus: PackedCorpus, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = made
    empty = tmp_path / "empty"
    (empty / "views").mkdir(parents=True)
    status, document = told(path, empty, capsys)
    assert status == 1
    assert {each["new"] for each in document["pairs"]} == {None}


def test_the_command_names_both_sides(made: tuple[Path, str, CachePlan]) -> None:
    path, uri, _ = made
    command = [sys.executable, "-c", "from kd_ray.cli import main; main()", "cache", "diff", uri]
    done = run([*command, str(path), "--set", "views.seed=4"])
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{uri}: views/tiny-train-")
    assert f" -> {path}: views/tiny-train-" in lines[0]
    assert lines[1] == "seed: 3 -> 4"
    assert done.stdout.count("no difference") == 2  # the view and the logits of the evaluation


def test_two_whole_caches_and_teachers_that_are_not_trained_yet_are_refused(
    made: tuple[Path, str, CachePlan], capsys: pytest.CaptureFixture[str]
) -> None:
    path, uri, _ = made
    with pytest.raises(RecipeError, match="got two whole caches"):
        told(uri, uri, capsys)
    finetuned = ("teacher.finetune.steps=5", "teacher.weights=null")
    with pytest.raises(RecipeError, match="which has not been done"):
        told(path, uri, capsys, overrides=finetuned)
