"""Several students from a cache that another recipe has filled: no teacher runs, and a failure stops no other student.

The first command has a student that cannot be trained, the second one mends it and adds another.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from kd_ray.config.load import load_recipe
from tests.e2e.conftest import FinishedRun
from tests.support.processes import ROOT, kd_ray, ray_folder, run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

LIMIT_S = 600  # two worker groups on a busy machine

PLAIN = "plain: {}, warm: {train: {losses: [{kind: kd, temperature: 4}]}}"
FIRST = f"students={{hot: {{train: {{optimizer: {{learning_rate: 1e30}}}}}}, {PLAIN}}}"
SECOND = f"students={{hot: {{train: {{optimizer: {{learning_rate: 1e-3}}}}}}, {PLAIN}, deep: {{train: {{epochs: 1}}}}}}"


@dataclass(frozen=True)
class Runs:
    """What two commands over one folder printed, and which run folders there were after the first."""

    out: Path
    first: CompletedProcess[str]
    second: CompletedProcess[str]
    after_first: dict[str, int]


def finished_runs(out: Path) -> dict[str, int]:
    """Run folders by name that hold a finished run, with the time of its record."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/run.json")}


@pytest.fixture(scope="module")
def runs(finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    out = tmp_path_factory.mktemp("many") / "out"
    (weights,) = finished.out.glob("teachers/teacher-*/model.safetensors")
    with ray_folder() as folder:
        command = kd_ray(
            str(ROOT / "conf" / "quickstart.yaml"),
            f"out={out}",
            f"corpus.uri={finished.out}/digits",
            f"corpus.packed_uri={finished.out}/corpus",
            f"cache.uri={finished.out}/cache",
            "cache.unit_row_groups=1",
            "views.count=2",
            "teacher.finetune=null",
            f"teacher.weights={weights}",
            "train.epochs=0.5",
            "train.num_workers=1",
            "train.reference=false",
            "train.log_every_steps=2",
            "export.onnx=false",
            "cluster.num_cpus=2",
            f"cluster.temp_dir={folder}",
        )
        first = run([*command, FIRST], timeout_s=LIMIT_S)
        after_first = finished_runs(out)
        second = run([*command, SECOND], timeout_s=LIMIT_S)
        yield Runs(out=out, first=first, second=second, after_first=after_first)


def test_a_student_that_fails_is_named_and_the_others_are_finished(runs: Runs) -> None:
    assert runs.first.returncode == 2, runs.first.stdout + runs.first.stderr
    assert "1 of 3 students failed, the others are finished" in runs.first.stderr
    assert "hot: the loss is" in runs.first.stderr
    assert "Traceback" not in runs.first.stderr
    assert {name.rsplit("-", 1)[0] for name in runs.after_first} == {"plain", "warm"}


def test_they_train_side_by_side_where_there_is_room(runs: Runs) -> None:
    assert "3 of 3 students to train, 2 at a time" in runs.first.stdout


def test_the_next_command_trains_only_what_is_missing(runs: Runs) -> None:
    assert runs.second.returncode == 0, runs.second.stdout + runs.second.stderr
    assert "2 of 4 students to train" in runs.second.stdout
    now = finished_runs(runs.out)
    assert {name.rsplit("-", 1)[0] for name in now} == {"hot", "plain", "warm", "deep"}
    assert {name: now[name] for name in runs.after_first} == runs.after_first


def test_four_students_cost_no_teacher_forward(runs: Runs) -> None:
    metrics = json.loads((runs.out / "metrics.json").read_text())
    assert metrics["extract/teacher_forwards"] == 0
    assert metrics["plan/status"] == metrics["extract/status"] == "already committed"


def test_each_has_its_resolved_recipe_an_export_and_a_line_in_the_comparison(runs: Runs) -> None:
    with (runs.out / "students.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["hot", "plain", "warm", "deep"]
    metrics = json.loads((runs.out / "metrics.json").read_text())
    for line in lines:
        recipe = load_recipe(Path(line["run_uri"]) / "recipe.yaml")
        assert recipe.student.name == line["name"]
        assert (runs.out / "export" / line["name"] / "model.safetensors").exists()
        assert float(line["cpu_ms_per_image"]) > 0
        assert float(line["score"]) == metrics[f"{line['name']}/top1"]
        assert line["name"] in runs.second.stdout
    page = (runs.out / "report.html").read_text()
    assert "Students beside each other" in page
