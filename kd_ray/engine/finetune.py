"""Finetuning a teacher: one worker, since it is short and a worker group would cost more to start."""

from collections.abc import Callable
from functools import partial

from kd_ray.config.resources import Resources
from kd_ray.engine.board import Standing
from kd_ray.engine.tasks import Worker, run_task
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import TrainJob, train_alone


def finetune_on_worker(job: TrainJob, *, resources: Resources, on_progress: Callable[[Standing], None]) -> None:
    """Train and save the job's model on a Ray worker.

    Raises:
        KdRayError: whatever of the project's own errors the worker raised.
    """
    run_task(partial(_finetune, job), resources=resources, on_progress=on_progress)


def _finetune(job: TrainJob, worker: Worker) -> None:
    train_alone(job, device=worker.device, hooks=_BoardHooks(job, worker))


class _BoardHooks:
    """Tells the board how far the loop is; a run this short is not checkpointed, it starts again."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self._job = job
        self._worker = worker

    def log(self, step: int, metrics: Metrics) -> None:
        batch_size = self._job.stream.global_batch_size
        total = self._job.settings.num_steps * batch_size
        self._worker.write_standing(Standing(step * batch_size, total, f"loss {metrics['loss']:.3f}"))

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None:
        return
