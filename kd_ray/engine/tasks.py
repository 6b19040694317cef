"""One job, once, on a worker with the resources it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from kd_ray.config.resources import Resources
from kd_ray.engine.board import Standing, watched_board
from kd_ray.engine.failures import own_error
from kd_ray.engine.session import limit_threads, worker_device

Result = TypeVar("Result")
WriteStanding = Callable[[Standing], None]


@dataclass(frozen=True, slots=True)
class Worker:
    """What a job learns about the worker it runs on."""

    device: str
    write_standing: WriteStanding


def run_task(
    job: Callable[[Worker], Result], *, resources: Resources, on_progress: Callable[[Standing], None]
) -> Result:
    """The result of `job` (which must pickle) from a Ray worker.

    Raises:
        KdRayError: whatever of the project's own errors the job raised.
    """
    remote: Any = ray.remote(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_retries=0)(_call)
    try:
        with watched_board(on_progress) as board:
            result: Result = ray.get(remote.remote(job, resources, board))
    except ray.exceptions.RayError as error:
        known = own_error(error)
        if known is None:
            raise
        raise known from None
    return result


def _call(job: Callable[[Worker], Result], resources: Resources, board: Any) -> Result:
    limit_threads(resources.num_cpus)
    return job(Worker(worker_device(resources.num_gpus), board.write.remote))
