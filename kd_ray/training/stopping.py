"""What ends a run before its last step."""

from collections.abc import Sequence

from kd_ray.config.loop import EarlyStopping
from kd_ray.errors import TrainingError
from kd_ray.training.window import Metrics

USUAL_METRICS = ("val_top1", "test_top1")


def judged_by(history: Sequence[Metrics], *, suffix: str) -> str:
    """The metric by which evaluations are compared; `suffix` is that of the weights that will be exported.

    Raises:
        TrainingError: none of them has it.
    """
    for name in (f"{each}{suffix}" for each in USUAL_METRICS):
        if any(name in each for each in history):
            return name
    raise TrainingError(
        "train.early_stopping and train.average_best compare evaluations by their top-1, but this one has none: the "
        "val and test splits have no labels, or the student's classes are not the corpus's. Remove both."
    )


def is_stale(history: Sequence[Metrics], metric: str, stopping: EarlyStopping) -> bool:
    """Whether the last `patience` evaluations are not above the best one before them by `min_delta`."""
    values = [each[metric] for each in history if metric in each]
    best, since = float("-inf"), 0
    for value in values:
        if value > best + stopping.min_delta:
            best, since = value, 0
        else:
            since += 1
    return since >= stopping.patience
