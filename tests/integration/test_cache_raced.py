"""Several writers on one cache, awake or asleep: one result, and nothing computed that was committed."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.builds import CODECS, Build, attempts, committed, findings, small_build
from tests.support.processes import wait_until
from tests.support.s3 import BUCKET, s3_server


@pytest.fixture(scope="module", params=["local", "s3"])
def raced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Build, str]]:
    """Writers, and where caches go."""
    folder = tmp_path_factory.mktemp("raced")
    with ExitStack() as stack:
        if request.param == "s3":
            stack.enter_context(s3_server())
        place = f"s3://{BUCKET}" if request.param == "s3" else str(folder)
        world = stack.enter_context(small_build(folder, per_class=15))
        assert world.writers.run(world.task(f"{place}/calm", name="calm")) == 0
        yield world, place


def is_one_result(world: Build, cache: str, calm: str) -> None:
    """The bytes of a calm build, of which nothing is there twice."""
    assert committed(cache) == committed(calm)
    assert findings(cache) == ()
    assert len(attempts(cache)) == len(world.units) * (len(CODECS) + 1)


def test_two_whole_builders_at_once(raced: tuple[Build, str]) -> None:
    world, place = raced
    cache = f"{place}/two"
    names = ["one", "two"]
    started = [
        world.writers.start(world.task(cache, name=name, first=first))
        for name, first in zip(names, (0, len(world.units) // 2), strict=True)
    ]
    assert [world.writers.wait(pid) for pid in started] == [0, 0]
    is_one_result(world, cache, f"{place}/calm")
    assert world.recomputed(names) == set()


def test_builders_in_step(raced: tuple[Build, str]) -> None:
    world, place = raced
    cache = f"{place}/in-step"
    names = ["left", "middle", "right"]
    started = [world.writers.start(world.task(cache, name=name)) for name in names]
    assert [world.writers.wait(pid) for pid in started] == [0, 0, 0]
    is_one_result(world, cache, f"{place}/calm")
    assert world.recomputed(names) == set()


def test_a_writer_that_slept_while_another_committed(raced: tuple[Build, str]) -> None:
    world, place = raced
    cache = f"{place}/slept"
    last = world.units[-1].id
    pid = world.writers.start(world.task(cache, name="zombie", first=len(world.units) - 1))
    wait_until(
        lambda: ("compute", "zombie", last) in world.events(), timeout_s=60, what="the first unit", every_s=0.001
    )
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)  # a process may still run until it is told
    asleep = ("done", "zombie", last) not in world.events()
    assert world.writers.run(world.task(cache, name="awake")) == 0
    before = committed(cache)
    os.kill(pid, signal.SIGCONT)
    assert world.writers.wait(pid) == 0
    assert asleep
    assert world.computed("zombie") == {last}
    assert committed(cache) == before
    is_one_result(world, cache, f"{place}/calm")
