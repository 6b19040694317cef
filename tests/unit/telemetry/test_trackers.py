"""Trackers, each read back by other means than it was written: TensorBoard always, the others where installed."""

import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from kd_ray.config.tracking import Mlflow, Tracking, Wandb
from kd_ray.errors import RecipeError
from kd_ray.telemetry.trackers import opened_trackers, require_trackers, tracker_names
from tests.support.event_files import events_of

FACTS = {"student": "ResNet-8", "seed": "0"}


def events_in(folder: Path) -> list[Event]:
    """Of all files, in their order."""
    return [event for path in sorted(folder.glob("events.out.tfevents.*")) for event in events_of(path)]


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = defaultdict(list)
    for event in events_in(folder):
        for value in event.summary.value:
            found[value.tag].append((event.step, round(value.simple_value, 6)))
    return dict(found)


def track(tracking: Tracking, run_uri: Path | str, *, first_step: int, losses: list[float]) -> None:
    with opened_trackers(
        tracking, run_uri=str(run_uri), name="student", facts=FACTS, first_step=first_step
    ) as trackers:
        for step, loss in enumerate(losses, start=max(first_step, 1)):
            for tracker in trackers:
                tracker.log(step, {"train/loss": loss})


def test_entries_are_told_apart_by_what_they_are_of() -> None:
    assert tracker_names({"step": 3, "loss": 1.0, "data_wait": 0.1}) == {"train/loss": 1.0, "train/data_wait": 0.1}
    assert tracker_names({"step": 3, "test_top1": 0.5}) == {"evaluate/test_top1": 0.5}


class TestTensorBoard:
    def test_has_every_number_at_its_step(self, tmp_path: Path) -> None:
        track(Tracking(), tmp_path, first_step=0, losses=[3.0, 2.0, 1.5])
        assert scalars_in(tmp_path / "tensorboard") == {"train/loss": [(1, 3.0), (2, 2.0), (3, 1.5)]}

    def test_is_on_storage_after_every_log(self, tmp_path: Path) -> None:
        with opened_trackers(Tracking(), run_uri=str(tmp_path), name="s", facts={}, first_step=0) as (tracker,):
            tracker.log(1, {"train/loss": 3.0})
            assert scalars_in(tmp_path / "tensorboard") == {"train/loss": [(1, 3.0)]}

    def test_a_run_that_goes_on_takes_back_what_an_earlier_try_said(self, tmp_path: Path) -> None:
        track(Tracking(), tmp_path, first_step=0, losses=[3.0, 2.0, 9.0])
        track(Tracking(), tmp_path, first_step=3, losses=[1.5])
        # SessionLog.START: TensorBoard forgets what it has read from that step on
        marks = [each.step for each in events_in(tmp_path / "tensorboard") if each.session_log.status == 1]
        assert marks == [3]
        assert scalars_in(tmp_path / "tensorboard") == {"train/loss": [(1, 3.0), (2, 2.0), (3, 9.0), (3, 1.5)]}

    def test_of_a_run_on_an_object_store_lies_there(self) -> None:
        import fsspec

        track(Tracking(), "memory://tracked/run", first_step=0, losses=[3.0])
        (name,) = fsspec.filesystem("memory").ls("/tracked/run/tensorboard", detail=False)
        assert "events.out.tfevents" in name

    def test_is_off_where_the_recipe_says_so(self, tmp_path: Path) -> None:
        track(Tracking(tensorboard=False), tmp_path, first_step=0, losses=[3.0])
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra kd-ray[mlflow] is not installed")
def test_mlflow_has_one_run_for_all_tries(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = Tracking(tensorboard=False, mlflow=Mlflow(tracking_uri=uri, experiment="students"))
    track(tracking, tmp_path / "run", first_step=0, losses=[3.0, 2.0])
    track(tracking, tmp_path / "run", first_step=3, losses=[1.5])
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("students")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "student"
    assert run.info.status == "FINISHED"
    assert run.data.params == FACTS
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 3.0), (2, 2.0), (3, 1.5)]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra kd-ray[wandb] is not installed")
def test_wandb_offline_leaves_a_run_to_be_sent(tmp_path: Path) -> None:
    tracking = Tracking(tensorboard=False, wandb=Wandb(project="students", mode="offline"))
    track(tracking, tmp_path, first_step=0, losses=[3.0, 2.0])
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = written.read_bytes()
    assert b"train/loss" in data
    assert b"ResNet-8" in data


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"mlflow": Mlflow(tracking_uri="sqlite:///m.db"), "wandb": Wandb()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _package: None)
    require_trackers(Tracking())
    with pytest.raises(RecipeError, match=rf"train\.tracking\.{name}: the package {name} is not installed"):
        require_trackers(Tracking(**{name: given[name]}))
