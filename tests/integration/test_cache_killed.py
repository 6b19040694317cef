"""Writers are killed at random points and started again: a calm build's bytes, nothing committed computed again."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from kd_ray.storage import open_storage
from tests.support.builds import Build, attempts, collect_garbage, committed, findings, small_build
from tests.support.s3 import BUCKET, s3_server
from tests.support.whole_cache import write_cache

SEED = 11
LEFT_BY_KILLS = {"an attempt that no commit names", "a write that was never finished"}


@pytest.fixture(scope="module")
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Build, str]]:
    """Writers, and where caches go."""
    folder = tmp_path_factory.mktemp("killed")
    with ExitStack() as stack:
        if request.param == "s3":
            stack.enter_context(s3_server())
        place = f"s3://{BUCKET}" if request.param == "s3" else str(folder)
        world = stack.enter_context(small_build(folder, per_class=10 if request.param == "s3" else 25))
        assert world.writers.run(world.task(f"{place}/warm", name="warm")) == 0  # loading is no part of a build's time
        yield world, place


class Disturbed:
    """One cache, built by writers that are killed."""

    def __init__(self, build: Build, cache_uri: str) -> None:
        self.build, self.cache_uri = build, cache_uri
        self.log: list[str] = []

    def run(self, name: str, *, seconds: float) -> bool:
        """One writer, killed after so long; whether it came to its end. Nothing that it computed was committed."""
        records = {path for path in open_storage(self.cache_uri).list("") if "/commits/" in path}
        complete = self.build.complete_units(records)
        ended = self.build.writers.kill_after(self.build.task(self.cache_uri, name=name), seconds)
        self.log.append(f"{name}: {seconds:.3f} s, {len(records)} records before")
        assert ended in (0, -9), self.log
        assert not self.build.computed(name) & complete, self.log
        begun = {f"{folder}/commits/{unit}.0.json" for folder, unit, by in attempts(self.cache_uri) if by == name}
        assert not begun & records, self.log
        return ended == 0


SLOW = (pytest.mark.slow, pytest.mark.timeout(1500))
CASES = [("local", 20), ("s3", 5), pytest.param("local", 200, marks=SLOW), pytest.param("s3", 200, marks=SLOW)]


@pytest.mark.parametrize(("build", "num_kills"), CASES, indirect=["build"])
def test_killed_at_random_points(build: tuple[Build, str], num_kills: int) -> None:
    world, place = build
    start_s = time.perf_counter()
    assert world.writers.run(world.task(f"{place}/calm-{num_kills}", name="calm")) == 0
    calm_s = time.perf_counter() - start_s
    expected = committed(f"{place}/calm-{num_kills}")
    chance = random.Random(SEED)
    kills = 0
    for number in count():
        cache = Disturbed(world, f"{place}/killed-{num_kills}-{number}")
        while not cache.run(f"w{num_kills}-{number}-{len(cache.log)}", seconds=chance.uniform(0, calm_s)):
            kills += 1
        assert committed(cache.cache_uri) == expected, cache.log
        assert findings(cache.cache_uri) == (), cache.log
        assert collect_garbage(cache.cache_uri) <= LEFT_BY_KILLS, cache.log
        assert len(open_storage(cache.cache_uri).inventory("")) == len(expected), cache.log
        if kills >= num_kills:
            break
    print(f"{kills} kills in {number + 1} builds of {calm_s:.2f} s each, {time.perf_counter() - start_s:.0f} s")


def test_a_record_that_a_killed_writer_did_not_finish_is_garbage_not_damage(tmp_path: Path) -> None:
    cache = write_cache(str(tmp_path))
    for path in cache.paths():
        (tmp_path / path / "commits" / ".record.json.0123.partial").write_bytes(b"{")
    assert findings(cache.uri) == ()
    assert collect_garbage(cache.uri) == {"a write that was never finished"}
    assert not list(tmp_path.rglob("*.partial"))
