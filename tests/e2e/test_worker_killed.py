"""A training worker is killed in the middle: training goes on from its last checkpoint, to the very same student."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import FinishedRun
from tests.support.processes import ROOT, SMALL, kd_ray, ray_folder, start, wait_until
from tests.support.train_workers import train_workers

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = (*SMALL, "train.epochs=20", "train.checkpoint_every_steps=50", "train.reference=false")


def student_of(finished: FinishedRun, out: Path, *, kill: bool) -> bytes:
    """The weights of a run from the finished run cache; with `kill`, one worker dies after a checkpoint."""
    shutil.copytree(finished.out, out)
    for folder in ("runs", "export"):
        shutil.rmtree(out / folder)
    with ray_folder() as ray:
        command = kd_ray(str(ROOT / "conf" / "quickstart.yaml"), f"out={out}", f"cluster.temp_dir={ray}", *SETTINGS)
        process = start(command, log=out.parent / f"{out.name}.log")
        if kill:
            wait_until(lambda: any((out / "runs").glob("*/checkpoint*/state.pt")), timeout_s=120, what="a checkpoint")
            os.kill(train_workers(ray)[0], signal.SIGKILL)
        assert process.wait(timeout=240) == 0, (out.parent / f"{out.name}.log").read_text()
    (weights,) = (out / "runs").glob("student-*/model.safetensors")
    return weights.read_bytes()


def test_a_killed_worker_changes_nothing(finished: FinishedRun, tmp_path: Path) -> None:
    calm = student_of(finished, tmp_path / "calm", kill=False)
    assert student_of(finished, tmp_path / "killed", kill=True) == calm
