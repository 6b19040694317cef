"""A disk that is full or may not be written: a clear error, nothing half committed, and the same command goes on."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.builds import Build, committed, findings, small_build
from tests.support.writers import BAD_INPUT

CALM_NAME = "calm"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    folder = tmp_path_factory.mktemp("full")
    with small_build(folder, per_class=15) as world:
        assert world.writers.run(world.task(str(folder / CALM_NAME), name=CALM_NAME)) == 0
        yield world


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """A file system in memory at `place`; skips where this user may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(place)], check=True)


def goes_on(world: Build, cache: Path, *, name: str) -> None:
    """The same task comes to its end, and computes nothing that was committed before."""
    assert findings(str(cache)) == ()
    complete = world.complete_units(path.as_posix() for path in cache.rglob("commits/*.json"))
    assert world.writers.run(world.task(str(cache), name=name)) == 0
    assert not world.computed(name) & complete
    assert committed(str(cache)) == committed(str(world.folder / CALM_NAME))
    assert findings(str(cache)) == ()


@pytest.mark.parametrize("num_pages", [8, 20, 30])
def test_a_full_disk(build: Build, tmp_path: Path, num_pages: int) -> None:
    place, errors = tmp_path / "disk", tmp_path / "error"
    place.mkdir()
    with mounted(place, f"size={num_pages * os.sysconf('SC_PAGE_SIZE')}"):
        cache = place / "cache"
        task = build.task(str(cache), name=f"full-{num_pages}", errors=str(errors))
        assert build.writers.run(task) == BAD_INPUT
        said = errors.read_text()
        assert said.startswith(str(cache))
        assert "cannot write: No space left on device. Make room there" in said
        assert not list(cache.rglob("*.partial"))
        remount(place, "size=64m")
        goes_on(build, cache, name=f"room-{num_pages}")


@pytest.mark.parametrize("max_file_bytes", [600, 2000])
def test_files_that_may_not_grow(build: Build, tmp_path: Path, max_file_bytes: int) -> None:
    cache, errors = tmp_path / "cache", tmp_path / "error"
    name = f"limited-{max_file_bytes}"
    task = build.task(str(cache), name=name, errors=str(errors), max_file_bytes=max_file_bytes, log=str(tmp_path / "x"))
    assert build.writers.run(task) == BAD_INPUT
    assert "cannot write: File too large. Make room there" in errors.read_text()
    assert not list(cache.rglob("*.partial"))
    goes_on(build, cache, name=f"after-{name}")


def test_a_file_system_that_is_read_only(build: Build, tmp_path: Path) -> None:
    place, errors = tmp_path / "disk", tmp_path / "error"
    place.mkdir()
    with mounted(place, "size=64m"):
        cache = place / "cache"
        remount(place, "ro")
        assert build.writers.run(build.task(str(cache), name="refused", errors=str(errors))) == BAD_INPUT
        assert "cannot write: Read-only file system. Mount it for writing" in errors.read_text()
        remount(place, "rw")
        assert build.writers.run(build.task(str(cache), name="allowed")) == 0
        remount(place, "ro")
        assert findings(str(cache)) == ()  # reading writes nothing
        assert committed(str(cache)) == committed(str(build.folder / CALM_NAME))
