"""One small quickstart, run once as a user would, for all tests that look at what it left."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import SMALL, kd_ray, ray_folder, run


@dataclass(frozen=True)
class FinishedRun:
    """Where a run wrote, its command, and what it printed."""

    out: Path
    command: list[str]
    completed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    out = tmp_path_factory.mktemp("quickstart") / "out"
    with ray_folder() as folder:
        command = kd_ray("conf/quickstart.yaml", f"out={out}", f"cluster.temp_dir={folder}", *SMALL)
        yield FinishedRun(out=out, command=command, completed=run(command))
