"""The pack stage on Ray Data: a row is one task's description, a block is a task, and only small rows travel."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
import ray.data

from kd_ray.engine.data import configure_ray_data
from kd_ray.engine.failures import own_error

T = TypeVar("T")
R = TypeVar("R")

CPUS_PER_TASK = 1


def on_ray(work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """The `Mapper` of a cluster: one CPU a task, as many at once as there are.

    Raises:
        KdRayError: whatever of the project's own errors a task raised.
    """
    if not tasks:
        return
    configure_ray_data()
    rows = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))

    def run(batch: dict[str, Any]) -> dict[str, Any]:
        (task,) = batch["task"]
        return {"result": np.array([pickle.dumps(work(pickle.loads(task)))], dtype=object)}

    results = rows.map_batches(run, batch_size=1, num_cpus=CPUS_PER_TASK)
    try:
        for row in results.iter_rows():
            yield pickle.loads(row["result"])
    except ray.exceptions.RayError as error:
        known = own_error(error)
        if known is None:
            raise
        raise known from None
