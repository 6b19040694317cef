"""Starting runs as a user does, and ending them by process id."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The quickstart on the same images with less of everything.
SMALL = (
    "views.count=2",
    "teacher.finetune.steps=10",
    "train.epochs=2",
    "train.evaluate_every_steps=20",
    "cache.unit_row_groups=1",
)


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A short temporary folder for Ray's sockets (107 characters at most); what still runs from it is ended."""
    folder = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))
    try:
        yield folder
    finally:
        kill_all_naming(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def kd_ray(*arguments: str) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "kd_ray.run", *arguments]


def run(command: Sequence[str], *, timeout_s: float = 240, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run to the end, without a terminal, output captured."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)


def start(command: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
    """Start in a process group of its own, as a terminal would, output to `log`."""
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str, every_s: float = 0.01) -> None:
    """Poll `condition`; AssertionError naming `what` where it does not come true in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s} s in vain for {what}"
        time.sleep(every_s)


def kill_all_naming(text: str) -> None:
    """SIGKILL every process that names `text`, a temporary folder of the test's own, and all below it, until none is.

    Ray's workers name nothing on their command line. They are children of a raylet that does, and where that one is
    gone already they still hold their logs below the folder open: one that outlived it could still commit.
    """
    while doomed := _naming(text):
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.02)


def _naming(text: str) -> set[int]:
    parents: dict[int, int] = {}
    doomed: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z":  # dead, and only not waited for
                continue
            parents[int(entry.name)] = int(parent)
            if text in (entry / "cmdline").read_bytes().decode(errors="replace") or _holds_open(entry, text):
                doomed.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    while below := {pid for pid, parent in parents.items() if parent in doomed} - doomed:
        doomed |= below
    return doomed


def _holds_open(process: Path, text: str) -> bool:
    for link in (process / "fd").iterdir():
        try:
            if text in str(link.readlink()):
                return True
        except FileNotFoundError:
            continue
    return False
