"""Rank 1 is killed ten times at random steps of one run: the student is that of an undisturbed run, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import FinishedRun
from tests.support.processes import ROOT, SMALL, kd_ray, ray_folder, start, wait_until
from tests.support.train_workers import first_worker, last_step, train_workers

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_KILLS, SEED = 10, 7
# 1,438 images in batches of 64 for 20 epochs
NUM_STEPS = 449
SETTINGS = (
    *SMALL,
    "train.epochs=20",
    "train.log_every_steps=3",
    "train.checkpoint_every_steps=20",
    "train.reference=false",
    f"train.max_failures={NUM_KILLS}",
    "train.tracking.tensorboard=true",
)


def student_of(finished: FinishedRun, out: Path, *, kills: list[int]) -> bytes:
    """The weights of a run from the finished run's cache whose rank 1 dies once it has passed each of these steps."""
    shutil.copytree(finished.out, out)
    for folder in ("runs", "export"):
        shutil.rmtree(out / folder)
    log = out.parent / f"{out.name}.log"
    with ray_folder() as ray:
        recipe = str(ROOT / "conf" / "quickstart.yaml")
        command = kd_ray(recipe, f"out={out}", f"cluster.temp_dir={ray}", *SETTINGS, "--stages", "train")
        process = start(command, log=log)
        dead: set[int] = set()
        for step in kills:
            dead |= kill_rank_1(out, ray, process, after_step=step, dead=dead)
        assert process.wait(timeout=300) == 0, log.read_text()
    assert len(dead) == len(kills)
    (weights,) = (out / "runs").glob("student-*/model.safetensors")
    return weights.read_bytes()


def kill_rank_1(out: Path, ray: Path, process: subprocess.Popen[bytes], *, after_step: int, dead: set[int]) -> set[int]:
    """The process that was killed."""
    rank_1: set[int] = set()

    def has_passed() -> bool:
        assert process.poll() is None, "the run has ended before it could be killed"
        runs = list((out / "runs").glob("student-*"))
        rank_0 = first_worker(runs[0]) if runs else None
        workers = set(train_workers(ray)) - dead
        if rank_0 not in workers or len(workers) != 2:
            return False
        rank_1.clear()
        rank_1.update(workers - {rank_0})
        return last_step(runs[0], rank_0) >= after_step

    wait_until(has_passed, timeout_s=240, what=f"step {after_step}", every_s=0.05)
    (pid,) = rank_1
    os.kill(pid, signal.SIGKILL)
    return {pid}


def test_rank_1_killed_ten_times_changes_nothing(finished: FinishedRun, tmp_path: Path) -> None:
    steps = sorted(random.Random(SEED).sample(range(20, NUM_STEPS - 60), NUM_KILLS))
    calm = student_of(finished, tmp_path / "calm", kills=[])
    assert student_of(finished, tmp_path / "killed", kills=steps) == calm
