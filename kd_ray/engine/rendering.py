"""Views rendered in Ray tasks of one CPU each, for a teacher that waits for them in another process."""

import uuid
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

import ray

from kd_ray.cache.commits import Commit
from kd_ray.cache.units import Unit
from kd_ray.engine.session import limit_threads
from kd_ray.extraction.job import ExtractJob, build_renderer
from kd_ray.extraction.rendering import Part, Rendered, UnitRenderer

MAX_OPEN = 4  # renderers that one process keeps, of as many teachers' workers

_opened: OrderedDict[str, UnitRenderer] = OrderedDict()


class RenderTasks:
    """Parts of units, each rendered by a task somewhere on the cluster; Ray runs lost ones again."""

    def __init__(self, *jobs: ExtractJob, max_tasks: int) -> None:
        self.max_tasks = max_tasks
        self._key = uuid.uuid4().hex
        self._jobs = ray.put(jobs)
        self._task: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_render)

    def submit(self, unit: Unit, committed: Commit | None, part: Part) -> "Future[tuple[list[Rendered], int]]":
        """The rows of a part, and how many of their views differ from the stored ones by rounding."""
        future: Future[tuple[list[Rendered], int]] = self._task.remote(
            self._key, self._jobs, unit, committed, part
        ).future()
        return future


def _render(
    key: str, jobs: tuple[ExtractJob, ...], unit: Unit, committed: Commit | None, part: Part
) -> tuple[list[Rendered], int]:
    """Runs in any worker process; the corpus is opened once for all parts that a process renders."""
    if key not in _opened:
        limit_threads(1)
        _opened[key] = build_renderer(*jobs)
        if len(_opened) > MAX_OPEN:
            _opened.popitem(last=False)
    return _opened[key].render_part(unit, committed, part)
