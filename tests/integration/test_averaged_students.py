"""What a run that averages weights, or stops early, leaves on storage."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kd_ray.config.loop import EarlyStopping, Ema
from kd_ray.config.losses import CrossEntropyLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.training.fit import FitSettings, Metrics, State
from kd_ray.training.job import TrainJob, train_alone
from tests.support.tiny_world import fit_settings, plan_views, train_job


class Scoring:
    """Evaluations rise to the second and fall from there on."""

    def __init__(self) -> None:
        self._scores = iter([0.2, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])

    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {"test_top1": next(self._scores)}

    def checkpoint(self, state: State) -> None: ...


@pytest.fixture
def job(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> TrainJob:
    return train_job(
        tiny_corpus,
        plan_views(tiny_corpus, tmp_path / "cache", num_views=2),
        tiny_teacher,
        losses=(CrossEntropyLoss(kind="cross_entropy"),),
        source=None,
        run_uri=tmp_path / "run",
        settings=fit_settings(6),
    )


def left_by(job: TrainJob, settings: FitSettings) -> tuple[dict[str, object], dict[str, Mapping[str, Tensor]]]:
    """The run's record, and its weights by file."""
    train_alone(replace(job, settings=settings), device="cpu", hooks=Scoring())
    folder = Path(job.run_uri)
    weights = {
        path.relative_to(folder).as_posix(): safetensors.torch.load_file(path) for path in folder.rglob("*.safetensors")
    }
    return json.loads((folder / "run.json").read_text()), weights


def test_a_moving_average_is_the_student_and_the_last_weights_lie_beside_it(job: TrainJob) -> None:
    record, weights = left_by(job, fit_settings(6, ema=Ema(decay=0.5)))
    assert record["exported"] == "ema"
    assert record["weights"] == {"last": "model-last.safetensors", "ema": "model.safetensors"}
    assert weights.keys() == {"model-last.safetensors", "model.safetensors"}
    averaged, last = weights["model.safetensors"], weights["model-last.safetensors"]
    assert averaged.keys() == last.keys()
    assert not torch.equal(averaged["conv1.weight"], last["conv1.weight"])
    assert (record["history"][-1]["test_top1"], record["history"][-1]["test_top1_ema"]) == (0.2, 0.6)


def test_the_mean_of_the_best_is_the_student_and_they_stay_on_storage(job: TrainJob) -> None:
    record, weights = left_by(job, fit_settings(6, average_best=2, evaluate_every_steps=2))
    assert record["exported"] == "best"
    assert weights.keys() == {
        "model.safetensors",
        "model-last.safetensors",
        "best/4.safetensors",
        "best/6.safetensors",
    }
    name = "conv1.weight"
    of_whole = f"backbone.{name}"
    wanted = (weights["best/4.safetensors"][of_whole] + weights["best/6.safetensors"][of_whole]) / 2
    torch.testing.assert_close(weights["model.safetensors"][name], wanted)
    assert torch.equal(weights["model-last.safetensors"][name], weights["best/6.safetensors"][of_whole])


def test_a_run_that_stopped_early_says_so(job: TrainJob) -> None:
    stopping = EarlyStopping(patience=2)
    record, _ = left_by(job, fit_settings(6, early_stopping=stopping, evaluate_every_steps=1))
    assert record["num_steps"] == 4
    assert record["images"] == 4 * job.stream.global_batch_size
    assert str(record["stopped"]).startswith("train.early_stopping: test_top1 has not risen")


def test_a_plain_run_leaves_its_last_weights_alone(job: TrainJob) -> None:
    record, weights = left_by(job, fit_settings(2))
    assert (record["exported"], record["stopped"]) == ("last", None)
    assert weights.keys() == {"model.safetensors"}


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bfloat16"}, {"accumulate_batches": 4}, {"channels_last": True}, {"deterministic": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_student_learns_nearly_the_same_another_way(job: TrainJob, changes: dict[str, object]) -> None:
    usual, _ = left_by(job, fit_settings(3))
    other, _ = left_by(replace(job, run_uri=f"{job.run_uri}-other"), fit_settings(3, **changes))
    losses = [[entry["loss"] for entry in record["history"] if "loss" in entry] for record in (usual, other)]
    # bfloat16 keeps 8 bits; batch norm over a quarter of a batch is another one
    assert losses[1] == pytest.approx(losses[0], rel=0.15)
