"""Where the numbers of a training run go while it runs: TensorBoard, MLflow, Weights & Biases.

MLflow and wandb are extras: they are loaded where a recipe asks for them.
"""

import importlib.util
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from kd_ray.config.tracking import Mlflow, Tracking, Wandb
from kd_ray.errors import RecipeError
from kd_ray.storage import digest_of_json, is_remote, join
from kd_ray.telemetry.event_files import EventFile

TENSORBOARD_FOLDER = "tensorboard"
RUN_TAG = "kd_ray.run"
EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes numbers by name; a tracker of a run that goes on adds to what it has."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers after `step`."""


def require_trackers(tracking: Tracking) -> None:
    """Raises RecipeError where the package of a tracker is not installed, before anything is trained."""
    for name, package in EXTRAS.items():
        if getattr(tracking, name) is not None and importlib.util.find_spec(package) is None:
            raise RecipeError(
                f"train.tracking.{name}: the package {package} is not installed here. "
                f"Install it, as by pip install 'kd-ray[{name}]', also where workers run, or remove it from the recipe."
            )


def tracker_names(entry: Mapping[str, float]) -> dict[str, float]:
    """One entry of a run's history under the names that trackers show: train/loss, evaluate/test_top1."""
    group = "train" if "loss" in entry else "evaluate"
    return {f"{group}/{name}": value for name, value in entry.items() if name != "step"}


@contextmanager
def opened_trackers(
    tracking: Tracking, *, run_uri: str, name: str, facts: Mapping[str, str], first_step: int
) -> Iterator[Sequence[Tracker]]:
    """The trackers of one student's run, for a block; `first_step` is that of a run that goes on."""
    with ExitStack() as stack:
        found: list[Tracker] = []
        if tracking.tensorboard:
            found.append(TensorBoard(join(run_uri, TENSORBOARD_FOLDER), first_step=first_step))
        if tracking.mlflow is not None:
            found.append(stack.enter_context(_mlflow(tracking.mlflow, run_uri=run_uri, name=name, facts=facts)))
        if tracking.wandb is not None:
            found.append(stack.enter_context(_wandb(tracking.wandb, run_uri=run_uri, name=name, facts=facts)))
        yield found


class TensorBoard:
    """Event files, on storage after every log."""

    def __init__(self, uri: str, *, first_step: int) -> None:
        self._file = EventFile(uri, first_step=first_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers after `step`."""
        self._file.add(step, metrics)


class MlflowRun:
    """One run of MLflow, without its global state."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers after `step`, in one request."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()]
        )


@contextmanager
def _mlflow(config: Mlflow, *, run_uri: str, name: str, facts: Mapping[str, str]) -> Iterator[MlflowRun]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=config.tracking_uri)
    experiment = client.get_experiment_by_name(config.experiment)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(config.experiment)
    wanted = {RUN_TAG: run_uri, "mlflow.runName": name}
    known = client.search_runs([experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{run_uri}'", max_results=1)
    run = known[0] if known else client.create_run(experiment_id, run_name=name, tags=wanted)
    for key, value in {} if known else facts.items():
        client.log_param(run.info.run_id, key, value)
    client.update_run(run.info.run_id, status="RUNNING")
    status = "FAILED"
    try:
        yield MlflowRun(client, run.info.run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run.info.run_id, status=status)


class WandbRun:
    """One run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers after `step`; sent by a process of wandb's own."""
        self._run.log({**metrics, "step": step})


@contextmanager
def _wandb(config: Wandb, *, run_uri: str, name: str, facts: Mapping[str, str]) -> Iterator[WandbRun]:
    import wandb

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if is_remote(run_uri) else run_uri
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=name,
            # the same run has the same id on every try, and wandb goes on with it
            id=digest_of_json({"run": run_uri})[:16],
            resume=None if config.mode == "offline" else "allow",
            mode=config.mode,
            dir=folder,
            config=dict(facts),
        )
        # steps of wandb's own never go back, those of a run that goes on do
        run.define_metric("*", step_metric="step")
        status = 1
        try:
            yield WandbRun(run)
            status = 0
        finally:
            run.finish(exit_code=status)
