"""What of the training loop's settings does not fit together, each refused at its place, and what names a run."""

from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.errors import RecipeError
from tests.support.recipes import VALID, write


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ("train.accumulate_batches=3",),
            "train.accumulate_batches: does not fit together; global_batch_size (64)",
        ),
        (("train.sync_batch_norm=true",), "train.sync_batch_norm: does not fit together; PyTorch shares"),
        (("train.parallel=fsdp",), "train.parallel: does not fit together; fsdp shares out over workers"),
        (
            ("train.parallel=fsdp", "train.num_workers=2", "train.precision=float16"),
            "train.precision: does not fit together; float16 is not scaled under fsdp",
        ),
        (
            ("train.parallel=fsdp", "train.num_workers=2", "train.optimizer.kind=lamb"),
            "train.optimizer.kind: does not fit together; lamb needs the norms of whole weights",
        ),
        (("train.ema={}", "train.average_best=3"), "train.average_best: does not fit together; one average"),
        (
            ("train.max_time=2 hours",),
            "train.max_time: does not fit together; give a number and s, m, h or d, as",
        ),
        (("train.max_time=0s",), "90m or 2h, got '0s'"),
        (
            ("train.schedule.min_learning_rate=0.5",),
            "train.schedule.min_learning_rate: does not fit together; min_learning_rate (0.5) must be below",
        ),
        (
            ("train.schedule.kind=step",),
            "train.schedule.milestones: does not fit together; the learning rate",
        ),
        (("train.schedule.milestones=[0.5]",), "train.schedule.milestones: does not fit together; are of kind step"),
        (
            ("train.schedule={kind: step, milestones: [0.7, 0.5]}",),
            "train.schedule.milestones: does not fit together; must rise, got [0.7, 0.5]",
        ),
        (
            ("train.schedule={warmup_fraction: 0.5, cooldown_fraction: 0.5}",),
            "train.schedule.cooldown_fraction: does not fit together; warmup_fraction (0.5) and",
        ),
    ],
)
def test_refused(tmp_path: Path, overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, VALID), overrides)
    assert told in str(caught.value)


@pytest.mark.parametrize("setting", ["train.average_best=3", "train.early_stopping={}"])
def test_without_a_loss_on_the_logits_there_is_no_top1_to_compare(tmp_path: Path, setting: str) -> None:
    features = "train.losses=[{kind: feature, output: summary}]"
    with pytest.raises(RecipeError, match=r"needs the top-1 of evaluations, but no loss is on the logits"):
        load_recipe(write(tmp_path, VALID), (features, "teacher.outputs={summary: {}}", setting))


def test_max_steps_is_a_bound(tmp_path: Path) -> None:
    def num_steps(*overrides: str) -> int:
        return load_recipe(write(tmp_path, VALID), ("train.epochs=10", *overrides)).train.num_steps(640)

    assert num_steps() == 100
    assert num_steps("train.max_steps=30") == 30
    assert num_steps("train.max_steps=300") == 100
