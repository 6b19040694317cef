"""`kd-ray plan` on a small world: exact where all is at hand, counted where nothing is packed, and what it leaves."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from kd_ray.cache.arrays import CRC_BYTES
from kd_ray.cache.target_set import SAMPLE_IDS, find_output
from kd_ray.cli import app
from kd_ray.config.load import load_recipe
from kd_ray.config.rates import AcceleratorRate, Rates
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.engine.session import RaySession
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from kd_ray.telemetry.rates import ExtractionRates
from pipelines.cache.recipe_plan import plan_of
from pipelines.context import Run
from pipelines.planning.actual import keep_actual, keep_plan, plan_and_actual
from pipelines.planning.command import make_estimate
from pipelines.planning.estimate import Estimate, document
from pipelines.planning.tables import lines, show_estimate
from tests.support.corpus_files import write_classes
from tests.support.recipes import VALID
from tests.support.recipes import write as write_valid
from tests.support.tiny_recipe import filled, write_recipe
from tests.support.tiny_world import extract


def estimate_of(path: Path, *overrides: str, calibrate: bool = False, rates: Rates | None = None) -> Estimate:
    recipe = load_recipe(path, list(overrides))
    return make_estimate(recipe, rates=rates, calibrate=calibrate, console=Console(file=io.StringIO()))


def told(made: Estimate) -> str:
    console = Console(file=io.StringIO(), record=True, width=200)
    show_estimate(made, console)
    return console.export_text()


def stored_values(plan: TargetPlan) -> int:
    """Bytes of the targets themselves: without checksums, sample ids and descriptions, which a unit has whatever its
    size.
    """
    total = 0
    for spec in plan.job.outputs.values():
        output = find_output(plan.job.cache_uri, plan.job.target_set, spec)
        assert output is not None
        for commit in output.collection.commits(plan.view_set.units).values():
            values = [layout for name, layout in commit.arrays.items() if name != SAMPLE_IDS]
            total += sum(length - CRC_BYTES for layout in values for _, length in layout.ranges)
    return total


@pytest.fixture
def path(tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher) -> Path:
    return write_recipe(tmp_path, tiny_corpus, tiny_teacher)


def test_bytes_and_objects_are_those_of_the_finished_cache(path: Path) -> None:
    planned = document(estimate_of(path))
    assert planned["num_missing_views"] == planned["num_views"] > 0
    assert planned["accelerators"] == []
    recipe, plan = filled(path)
    storage = open_storage(recipe.cache.uri)
    names = [name for name in storage.list("targets") if "/units/" in name or "/commits/" in name]
    assert len(names) == planned["num_objects"]
    assert planned["num_bytes"] == sum(map(stored_values, plan.all))
    after = document(estimate_of(path))
    assert (after["num_missing_views"], after["num_bytes"]) == (0, planned["num_bytes"])


def test_what_is_timed_is_kept_and_nothing_else_is_left(path: Path, tmp_path: Path) -> None:
    made = estimate_of(path, calibrate=True)
    planned: dict[str, Any] = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert planned == json.loads(json.dumps(document(made)))
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["plan.json"]
    assert not list((tmp_path / "cache").rglob("*")) if (tmp_path / "cache").exists() else True
    assert planned["storage"]["write_bytes_per_s"] > 0
    assert planned["student_epoch_s"] > 0
    (row,) = planned["accelerators"]
    assert row["hours"] == pytest.approx(planned["num_missing_views"] * planned["seconds_per_view"]["teacher"] / 3600)
    text = told(made)
    for each in ("this machine (cpu)", "codec: int8", "as it is", "student epochs", "no price is known"):
        assert each in text


def test_one_student_with_a_fresh_view_every_epoch_is_told_that_it_saves_nothing(path: Path) -> None:
    made = estimate_of(path, "train.epochs=1", calibrate=True)
    assert made.break_even is not None
    assert not made.break_even.pays  # two views, one epoch: the teacher runs twice as often
    assert any("saves nothing" in line for line in lines(made))


def test_rates_of_a_file_give_hours_and_prices(path: Path) -> None:
    rates = Rates(
        accelerators={
            "L4": AcceleratorRate(views_per_s={"teacher": 10}, price_per_hour=36.0),
            "T4": AcceleratorRate(views_per_s={"other": 10}),
        }
    )
    made = estimate_of(path, rates=rates)
    (row,) = made.accelerators
    assert row.price == pytest.approx(sum(each.num_missing_views for each in made.counted.volumes) / 1000)
    assert any("say nothing of it on T4" in note for note in made.notes)


def test_before_packing_the_images_of_the_source_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", per_class=10)
    text = VALID.replace("uri: images,", f"uri: {tmp_path}/images,").replace("out/small", f"{tmp_path}/out")
    made = estimate_of(write_valid(tmp_path, text))
    counted = made.counted
    num_images = len([each for each in (tmp_path / "images").rglob("*.*") if each.is_file()])
    assert counted.num_train + counted.num_test == num_images
    assert counted.plan is None
    assert "nothing is packed yet" in told(made)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_json_alone(path: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(path), "--json", "--no-calibrate"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == "tiny"


def test_a_recipe_with_everything_at_hand_is_planned_as_a_run_would(path: Path) -> None:
    counted = estimate_of(path).counted
    _, plan = plan_of(load_recipe(path, []))
    assert sum(each.num_missing_views for each in counted.volumes) == sum(each.forwards_missing for each in plan.all)
    assert counted.plan is not None


def test_plan_and_actual_stand_side_by_side(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimate_of(path, calibrate=True)
    recipe = load_recipe(path, [])
    run = Run(
        recipe=recipe,
        storage=open_storage(recipe.out),
        console=Console(file=io.StringIO()),
        session=RaySession(recipe.cluster),
        events=EventLog(None),
        stages=(),
    )
    _, plan = plan_of(recipe)
    assert plan_and_actual(run, plan, student_epoch_seconds=1.0) == {}
    keep_plan(run, plan)
    rates, num_views = ExtractionRates(num_units=sum(len(each.missing) for each in plan.all)), 0
    for report in (report for each in plan.all for report in extract(each)):
        num_views += report.num_views
        rates.add(
            accelerator="",
            views=report.num_views,
            seconds=report.seconds,
            teacher_s=report.teacher_s,
            value_bytes=report.value_bytes,
        )
    keep_actual(run, plan, rates, num_views=num_views)
    found = plan_and_actual(run, plan, student_epoch_seconds=1.0)
    assert found["actual_over_plan/views"] == found["actual_over_plan/bytes"] == 1
    assert found["plan/extract_seconds"] > 0
    assert found["plan/student_epoch_seconds"] > 0
    assert 0 <= found["actual/teacher_idle_share"] <= 1
    with capsys.disabled():
        print(f"actual over planned seconds of extraction: {found['actual_over_plan/extract_seconds']}")
    # what was timed for other views is not taken
    other = replace(run, recipe=load_recipe(path, ["views.seed=9"]))
    keep_plan(other, plan)
    keep_actual(other, plan, rates, num_views=num_views)
    assert "plan/extract_seconds" not in plan_and_actual(other, plan, student_epoch_seconds=None)
