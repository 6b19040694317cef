"""The main path as a user takes it: one command, then the same command again."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch

from kd_ray.config.load import load_recipe
from kd_ray.config.views import EVALUATION_POLICY
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.evaluate.predict import predict
from tests.e2e.conftest import FinishedRun
from tests.support.processes import ROOT, run

pytestmark = pytest.mark.ray

NUM_TRAIN, NUM_TEST, NUM_VIEWS = 1438, 359, 2
RAY_NOISE = re.compile(r"pid=|INFO |WARNING |DeprecationWarning|raylet|core_worker|logging.cc|Traceback")


def metrics_of(finished: FinishedRun) -> Mapping[str, Any]:
    metrics: Mapping[str, Any] = json.loads((finished.out / "metrics.json").read_text())
    return metrics


def test_it_ends_well_and_writes_what_it_promises(finished: FinishedRun) -> None:
    assert finished.completed.returncode == 0, finished.completed.stdout + finished.completed.stderr
    for name in ("metrics.json", "report.html", "views.png", "recipe.yaml", "run.json", "events.jsonl"):
        assert (finished.out / name).stat().st_size > 0, name


def test_ray_is_not_heard(finished: FinishedRun) -> None:
    printed = finished.completed.stdout + finished.completed.stderr
    assert not RAY_NOISE.search(printed), printed


def test_every_view_was_seen_by_the_teacher_exactly_once(finished: FinishedRun) -> None:
    assert metrics_of(finished)["extract/teacher_forwards"] == NUM_TRAIN * NUM_VIEWS + NUM_TEST


def test_the_numbers_are_all_there(finished: FinishedRun) -> None:
    metrics = metrics_of(finished)
    for name in ("teacher", "student", "student-without-teacher"):
        assert 0 <= metrics[f"{name}/top1"] <= 1
    assert 0 <= metrics["student/agreement/teacher"] <= 1
    for stage in ("pack", "finetune", "extract", "train", "evaluate"):
        assert metrics[f"{stage}/images_per_s"] > 0
    for stage in ("pack", "finetune", "plan", "extract", "train", "evaluate", "export", "report"):
        assert metrics[f"{stage}/seconds"] >= 0
    assert metrics["cache/bytes"] == stored_bytes(finished)
    assert metrics["teacher/num_parameters"] >= 10 * metrics["student/num_parameters"]


def test_the_final_table_shows_all_three_models(finished: FinishedRun) -> None:
    for name in ("teacher", "student", "student-without-teacher"):
        assert f"{100 * metrics_of(finished)[f'{name}/top1']:.2f} %" in finished.completed.stdout


def test_packing_on_ray_gives_the_bytes_of_one_process(finished: FinishedRun, tmp_path: Path) -> None:
    recipe = load_recipe(finished.out / "recipe.yaml")
    pack(recipe.corpus.model_copy(update={"packed_uri": str(tmp_path / "packed")}))
    assert files_below(tmp_path / "packed") == files_below(finished.out / "corpus")


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_exported_student_is_the_one_that_was_evaluated(finished: FinishedRun) -> None:
    """timm and ONNX Runtime, given the export alone, score what metrics.json says."""
    export = finished.out / "export" / "student"
    student = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    session = onnxruntime.InferenceSession(export / "model.onnx")
    recipe = load_recipe(finished.out / "recipe.yaml")
    corpus = open_corpus(str(finished.out / "corpus"))

    def by_onnx(inputs_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs_BCHW.numpy()})[0])

    for logits_of in (student, by_onnx):
        found = predict(
            logits_of,
            corpus,
            split="test",
            policy=EVALUATION_POLICY,
            size=recipe.student.input,
            batch_size=128,
            device=torch.device("cpu"),
        )
        top1 = float(np.mean(found.logits_NK.argmax(axis=1) == found.labels))
        assert top1 == pytest.approx(metrics_of(finished)["student/top1"], abs=1e-6)


def test_the_same_command_again_does_nothing_and_says_so(finished: FinishedRun) -> None:
    before_s = time.monotonic()
    again = run(finished.command)
    seconds = time.monotonic() - before_s
    assert again.returncode == 0, again.stdout + again.stderr
    assert seconds < 25
    metrics = metrics_of(finished)
    assert metrics["extract/teacher_forwards"] == 0
    for stage in ("pack", "finetune", "plan", "extract", "train", "evaluate", "export", "report"):
        assert metrics[f"{stage}/status"] == "already committed", stage


def test_a_dry_run_writes_nothing(finished: FinishedRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")}
    dry = run([*finished.command, "--dry-run"])
    assert dry.returncode == 0, dry.stderr
    assert "forwards to run" in dry.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")}


def test_a_recipe_with_mistakes_exits_2_and_loses_nothing(finished: FinishedRun) -> None:
    wrong = run([*finished.command, "train.epochs=-1", "views.coutn=3", "student.model.kind=tim"])
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    for expected in ("3 mistakes", "train.epochs", "views.coutn", "Did you mean count?", "Did you mean timm?"):
        assert expected in wrong.stderr
    assert (finished.out / "metrics.json").exists()


def test_a_student_that_cannot_be_built_costs_no_forward_pass(finished: FinishedRun) -> None:
    wrong = run([*finished.command, "views.seed=1", "student.model.name=resnet10x"])
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert "resnet10t" in wrong.stderr, "it suggests what was meant"
    assert len(list((finished.out / "cache" / "targets").glob("teacher-*/target_set.json"))) == 2


def test_more_than_the_machine_has_is_refused_at_once(finished: FinishedRun) -> None:
    wrong = run([*finished.command, "views.seed=2", "cluster.num_cpus=1"])
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert "need 2 CPU together, this machine's cluster has 1" in wrong.stderr


def test_train_alone_refuses_another_teacher_than_was_extracted(finished: FinishedRun) -> None:
    """Without the extract stage, targets of another policy are refused, and no student is trained on them."""
    other = run([*finished.command, "views.seed=1", "--stages", "train"])
    assert other.returncode == 2
    assert "Traceback" not in other.stderr
    assert "not committed yet" in other.stderr


def test_the_console_command_is_the_same(finished: FinishedRun) -> None:
    dry = run([str(ROOT / ".venv" / "bin" / "kd-ray"), *finished.command[3:], "--dry-run"])
    assert dry.returncode == 0, dry.stderr
    assert "forwards to run" in dry.stdout


def stored_bytes(finished: FinishedRun) -> int:
    units = (finished.out / "cache" / "targets").glob("*/*/units/**/*")
    return sum(path.stat().st_size for path in units if path.is_file())
