"""A run that is killed or interrupted in the middle of extraction, and the same command again."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd_ray.cache.commits import Collection
from kd_ray.storage import open_storage
from tests.e2e.conftest import FinishedRun
from tests.support.processes import SMALL, kd_ray, kill_all_naming, ray_folder, run, start, wait_until

pytestmark = pytest.mark.ray

# the finished run has one; each has as many threads, so that its sums are of the same order
TWO_WORKERS = ("cluster.num_cpus=4", "teacher.resources.min_workers=2", "teacher.resources.max_workers=2")


@pytest.fixture
def half_done(finished: FinishedRun, tmp_path: Path) -> Iterator[tuple[Path, list[str], Path]]:
    """The finished run without its cache, the command that fills it again, and the folder of its Ray."""
    assert finished.completed.returncode == 0
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    shutil.rmtree(out / "cache")
    for left_over in [out / "metrics.json", *(out / "stages").glob("extract-*")]:
        left_over.unlink()
    with ray_folder() as folder:
        yield out, kd_ray("conf/quickstart.yaml", f"out={out}", f"cluster.temp_dir={folder}", *SMALL), folder


def collections(cache: Path) -> dict[str, Collection]:
    """Every collection of a cache by its path without the folder of the cache."""
    found = {}
    for commits in sorted(cache.glob("**/commits")):
        folder = commits.parent
        found[str(folder.relative_to(cache))] = Collection(storage=open_storage(str(folder.parent)), folder=folder.name)
    return found


def data_of(cache: Path) -> dict[str, bytes]:
    """The bytes of every committed object, by collection, unit and name (attempts have names of their own)."""
    data = {}
    for name, collection in collections(cache).items():
        for unit, commit in collection.commits().items():
            for object_name in commit.objects:
                stored = collection.storage.read(collection.object_name(commit, object_name))
                data[f"{name}/{unit.id}/{object_name}"] = stored
    return data


def num_commits(cache: Path) -> int:
    return sum(1 for _ in cache.glob("targets/*/logits-*/commits/*.json"))


def forwards(out: Path) -> int:
    count: int = json.loads((out / "metrics.json").read_text())["extract/teacher_forwards"]
    return count


def test_kill_9_in_extraction_then_the_same_command_with_two_workers(
    finished: FinishedRun, half_done: tuple[Path, list[str], Path]
) -> None:
    """Params, digests and targets are the same bytes, whoever computed them."""
    out, command, folder = half_done
    process = start(command, log=out.parent / "log")
    wait_until(lambda: num_commits(out / "cache") >= 3, timeout_s=120, what="three committed units")
    os.killpg(process.pid, signal.SIGKILL)
    kill_all_naming(str(folder))
    process.wait()
    committed = {
        (name, unit): commit
        for name, each in collections(out / "cache").items()
        for unit, commit in each.commits().items()
    }
    assert num_commits(out / "cache") < num_commits(finished.out / "cache"), "it was killed too late to show anything"

    again = run([*command, *TWO_WORKERS])
    assert again.returncode == 0, again.stdout + again.stderr
    after = collections(out / "cache")
    for (name, unit), commit in committed.items():
        assert after[name].commits()[unit] == commit, "a committed unit was written again"
    assert data_of(out / "cache") == data_of(finished.out / "cache")
    with_all_outputs = [
        unit
        for (name, unit) in committed
        if name.startswith("targets")
        and sum(other == unit for _, other in committed) == expected_outputs(finished, unit)
    ]
    rows = {unit: committed[name, unit].num_rows for (name, unit) in committed if name.startswith("targets")}
    spared = sum(rows[unit] * unit.num_views for unit in set(with_all_outputs))
    assert spared > 0
    assert forwards(out) == total_forwards(finished) - spared


def expected_outputs(finished: FinishedRun, unit: object) -> int:
    """In how many collections the finished run has that unit: its outputs, and the views."""
    return sum(unit in each.commits() for each in collections(finished.out / "cache").values())


def total_forwards(finished: FinishedRun) -> int:
    logits = {
        unit: commit
        for name, each in collections(finished.out / "cache").items()
        if "/logits-" in name
        for unit, commit in each.commits().items()
    }
    return sum(commit.num_rows * unit.num_views for unit, commit in logits.items())


def test_ctrl_c_in_extraction_says_how_to_go_on(half_done: tuple[Path, list[str], Path]) -> None:
    out, command, _ = half_done
    log = out.parent / "log"
    process = start(command, log=log)
    wait_until(lambda: num_commits(out / "cache") >= 1, timeout_s=120, what="a committed unit")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    printed = log.read_text()
    assert "the same command goes on" in printed
    assert "Traceback" not in printed, printed
