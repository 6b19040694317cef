"""One small quickstart, run once as a user would, for all tests that look at what it left."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SMALL, kd_ray, ray_folder, run


@dataclass(frozen=True)
class FinishedRun:
    """Where a run wrote, its command, and what it printed."""

    out: Path
    command: list[str]
    completed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """Started in a folder of its own with a relative `out`; later commands find the same place by its absolute path."""
    home = tmp_path_factory.mktemp("quickstart")
    recipe = str(ROOT / "conf" / "quickstart.yaml")
    with ray_folder() as folder:
        completed = run(kd_ray(recipe, "out=out", f"cluster.temp_dir={folder}", *SMALL), cwd=home)
        out = home / "out"
        command = kd_ray(recipe, f"out={out}", f"cluster.temp_dir={folder}", *SMALL)
        yield FinishedRun(out=out, command=command, completed=completed)
