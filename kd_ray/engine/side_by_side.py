"""Students in several worker groups at the same time, as many as the cluster has room for."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ray
import ray.train

from kd_ray.config.resources import Resources
from kd_ray.engine.board import Standing
from kd_ray.engine.train import TrainGroup, train_group
from kd_ray.errors import KdRayError
from kd_ray.training.job import TrainJob, is_finished

JOIN_S = 0.5  # a signal is noticed between two looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A student whose training ended with `error`."""

    job: TrainJob
    error: KdRayError | ray.train.TrainingFailedError


def num_groups_that_fit(resources: Resources, *, num_workers: int) -> int:
    """How many worker groups of this size the whole cluster has room for; at least one, for a cluster may grow."""
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {"CPU": resources.num_cpus * num_workers, "GPU": resources.num_gpus * num_workers}
    return max(min((int(total.get(name, 0) // amount) for name, amount in asked.items() if amount > 0), default=1), 1)


def train_side_by_side(
    groups: Sequence[tuple[str, TrainGroup]],
    *,
    storage_uri: str,
    max_failures: int,
    on_progress: Callable[[Standing], None],
    on_line: Callable[[str], None],
) -> list[Failure]:
    """Train every job of every named group that is not finished; one that fails stops no other.

    Raises whatever else than a student's failure ends a group.
    """
    standings = _Standings(groups, on_progress)
    failures: list[Failure] = []
    broken: list[BaseException] = []

    def run(index: int, name: str, group: TrainGroup) -> None:
        try:
            failures.extend(
                _train_all(
                    group,
                    name=name,
                    storage_uri=storage_uri,
                    max_failures=max_failures,
                    on_progress=lambda standing: standings.write(index, standing),
                    on_line=on_line,
                )
            )
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            broken.append(error)

    # daemons: where the command is interrupted, they end with the connection to Ray
    threads = [
        threading.Thread(target=run, args=(index, name, group), name=name, daemon=True)
        for index, (name, group) in enumerate(groups)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(JOIN_S)
    if broken:
        raise broken[0]
    return failures


def _train_all(
    group: TrainGroup,
    *,
    name: str,
    storage_uri: str,
    max_failures: int,
    on_progress: Callable[[Standing], None],
    on_line: Callable[[str], None],
) -> list[Failure]:
    """The students of a group one after another; after a failure the rest go on in new workers."""
    failures: list[Failure] = []
    rest = group
    while True:
        try:
            train_group(
                rest,
                name=name,
                storage_uri=storage_uri,
                max_failures=max_failures,
                on_progress=on_progress,
                on_line=on_line,
            )
        except (KdRayError, ray.train.TrainingFailedError) as error:
            unfinished = [job for job in rest.jobs if not is_finished(job)]
            if not unfinished:
                raise
            failures.append(Failure(job=unfinished[0], error=error))  # they are trained in this order
            if len(unfinished) == 1:
                return failures
            rest = replace(rest, jobs=tuple(unfinished[1:]))
        else:
            return failures


class _Standings:
    """How far all groups are together."""

    def __init__(self, groups: Sequence[tuple[str, TrainGroup]], on_progress: Callable[[Standing], None]) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._total = sum(
            job.settings.num_steps * job.stream.global_batch_size for _, group in groups for job in group.jobs
        )
        self._of_group: dict[int, Standing] = {}

    def write(self, index: int, standing: Standing) -> None:
        """Note how far one group is, and tell how far all are."""
        with self._lock:
            self._of_group[index] = standing
            done = sum(each.done for each in self._of_group.values())
            note = " | ".join(each.note for _, each in sorted(self._of_group.items()) if each.note)
            self._on_progress(Standing(done, self._total, note))
