"""Writers of a cache in processes of their own, which tests kill, stop and race; forked, since loading takes seconds.

    python -m tests.support.writers world.pickle

answers lines of JSON on stdin: `{"start": …}` with the pid of a writer, `{"wait": pid}` with how that one ended. The
process has loaded everything, has no thread and has opened nothing, so that it can be forked.
"""

import json
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Unit
from kd_ray.errors import KdRayError
from kd_ray.extraction.job import ExtractJob, build_renderer
from kd_ray.extraction.unit import Seat, UnitExtractor
from kd_ray.teachers.frozen import FrozenTeacher
from tests.support.processes import ROOT

BAD_INPUT = 2  # what a run ends with where a user can mend it


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one writer does: the whole cache, or what is missing of it; its attempts begin with `name`.

    To `log` it appends `begin <name> <unit>`, then `compute …` before the teacher runs, `done …` after the unit is
    committed. Units are taken in turn from `first`.
    With `errors` the paragraph that a user would see is written there.
    """

    cache_uri: str
    name: str
    log: str
    first: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    max_file_bytes: int | None = None
    errors: str | None = None


class Writers:
    """The process from which writers are forked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, task: Task) -> int:
        """The pid of a new writer; it stays one, dead or alive, until `wait`."""
        return int(self._ask({"start": asdict(task)}))

    def wait(self, pid: int) -> int:
        """How a writer ended: its exit status, or the negative number of the signal."""
        return int(self._ask({"wait": pid}))

    def run(self, task: Task) -> int:
        """From start to end."""
        return self.wait(self.start(task))

    def kill_after(self, task: Task, seconds: float) -> int:
        """As `run`, with a SIGKILL after so long."""
        pid = self.start(task)
        time.sleep(seconds)
        os.kill(pid, 9)
        return self.wait(pid)

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def writers(job: ExtractJob, units: Sequence[Unit], *, folder: Path) -> Iterator[Writers]:
    """Writers of `units` of `job`; they see the environment of now."""
    world = folder / "world.pickle"
    world.write_bytes(pickle.dumps((job, list(units))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.writers", str(world)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()


class Log:
    """Lines appended whole, whoever else writes."""

    def __init__(self, path: str, *, name: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._name = name
        self.unit = ""

    def say(self, event: str) -> None:
        os.write(self._file, f"{event} {self._name} {self.unit}\n".encode())


class LoggedTeacher(FrozenTeacher):
    """Says that it computes before it does."""

    def __init__(self, job: ExtractJob, *, log: Log) -> None:
        super().__init__(
            job.teacher, num_classes=job.num_classes, weights_uri=job.weights_uri, device="cpu", batch_size=32
        )
        self._log = log

    def __call__(self, pixels_BHWC: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        self._log.say("compute")
        return super().__call__(pixels_BHWC)


def build(job: ExtractJob, units: Sequence[Unit], task: Task) -> None:
    """Compute and commit what is missing, as a worker of the extract stage does."""
    job = replace(job, cache_uri=task.cache_uri)
    log = Log(task.log, name=task.name)
    renderer = build_renderer(job)  # first, as the stage does: targets are of views that are there
    seat = Seat(
        teacher=LoggedTeacher(job, log=log),
        outputs={
            name: open_output(job.cache_uri, job.target_set, spec, create=True) for name, spec in job.outputs.items()
        },
        calibrating=job.calibrating,
        generations=job.generations,
    )
    extractor = UnitExtractor([seat], renderer=renderer, num_threads=1, batch_size=32)
    for unit in [*units[task.first :], *units[: task.first]]:
        log.unit = unit.id
        log.say("begin")
        extractor(unit, attempt=task.name)
        log.say("done")


def _fork(job: ExtractJob, units: Sequence[Unit], task: Task) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.environ.update(task.environment)
        if task.max_file_bytes is not None:
            _limit_files(task.max_file_bytes)
        build(job, units, task)
        status = 0
    except KdRayError as error:
        if task.errors is not None:
            Path(task.errors).write_text(str(error))
        status = BAD_INPUT
    except BaseException:  # noqa: BLE001 - a fork must never return
        traceback.print_exc()
    os._exit(status)


def _limit_files(num_bytes: int) -> None:
    """No file may become longer, as where a disk is full; Python itself ignores the signal that comes with it."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def _serve(questions: IO[str], answers: IO[str], world: Path) -> None:
    import torch

    torch.set_num_threads(1)
    job, units = pickle.loads(world.read_bytes())
    for line in questions:
        match json.loads(line):
            case {"start": task}:
                answer = _fork(job, units, Task(**task))
            case {"wait": pid}:
                answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answers.write(f"{answer}\n")
        answers.flush()


if __name__ == "__main__":
    # what the write path loads late
    import pandas  # noqa: F401
    import s3fs  # noqa: F401
    from PIL import Image

    import kd_ray.models  # noqa: F401

    Image.init()
    _serve(sys.stdin, sys.stdout, Path(sys.argv[1]))
