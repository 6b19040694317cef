"""An S3 server behind a network that errs: what is asked for is done and right, or a clear error tells."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs

from kd_ray.errors import KdRayError, StorageError
from kd_ray.storage import open_storage
from tests.support.builds import Build, committed, findings, small_build
from tests.support.ceph import CephGateway
from tests.support.faulty_proxy import CUTS, FAULTS, Fault, FaultyProxy
from tests.support.s3 import BUCKET, S3Server
from tests.support.writers import BAD_INPUT

# set as a user does: FSSPEC_S3 in the environment of a run, here also in fsspec's configuration of this process
CLIENT = {"config_kwargs": {"read_timeout": 1.0, "connect_timeout": 1.0}}
SILENCE_S = 1.5
DATA = bytes(range(100))
NUM_RUNS = 20


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch, s3: S3Server | CephGateway) -> Iterator[None]:
    monkeypatch.setitem(fsspec.config.conf, "s3", CLIENT)
    monkeypatch.setenv("FSSPEC_S3", json.dumps(CLIENT))
    s3fs.S3FileSystem.clear_instance_cache()  # instances remember their configuration
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def through(proxy: FaultyProxy) -> Iterator[None]:
    """New connections of this process go to the proxy meanwhile."""
    with proxy.running(), pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_changes_no_read(s3: S3Server | CephGateway, s3_uri: str, fault: Fault) -> None:
    open_storage(s3_uri).write("a", DATA)
    proxy = FaultyProxy(s3.url, rate=1, limit=1, silence_s=SILENCE_S, faults=[fault])
    with through(proxy):
        assert open_storage(s3_uri).read_range("a", offset=10, length=20) == DATA[10:30]
        assert proxy.met == {fault: 1}
        proxy.limit = 2
        assert open_storage(s3_uri).read("a") == DATA
        assert proxy.met == {fault: 2}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_changes_no_range_and_no_byte_is_seen_twice(
    s3: S3Server | CephGateway, s3_uri: str, fault: Fault
) -> None:
    data = np.arange(1 << 18, dtype="<u4").view(np.uint8)  # several parts
    open_storage(s3_uri).write("a", data.tobytes())
    proxy = FaultyProxy(s3.url, rate=1, limit=2, silence_s=SILENCE_S, faults=[fault])
    with through(proxy):
        seen = list[bytes]()
        length = len(data) - 7
        found = open_storage(s3_uri).load_range(
            "a", offset=7, length=length, seen=lambda part: seen.append(part.tobytes())
        )
    assert proxy.met == {fault: 2}
    assert b"".join(seen) == found.tobytes() == data[7:].tobytes()


def test_ranges_that_never_come_whole_are_an_error(s3: S3Server | CephGateway, s3_uri: str) -> None:
    open_storage(s3_uri).write("a", DATA)
    with (
        through(FaultyProxy(s3.url, rate=1, silence_s=SILENCE_S, faults=["error_500"])),
        pytest.raises(StorageError, match=rf"^{re.escape(s3_uri)}/a: cannot read: .*InternalError"),
    ):
        open_storage(s3_uri).load_range("a", offset=10, length=60, seen=len)


@pytest.mark.parametrize("fault", [each for each in FAULTS if each not in CUTS])
def test_one_fault_changes_no_write(s3: S3Server | CephGateway, s3_uri: str, fault: Fault) -> None:
    proxy = FaultyProxy(s3.url, rate=1, limit=1, silence_s=SILENCE_S, faults=[fault])
    with through(proxy):
        # where the answer was lost the object that is found is one's own, as its bytes tell
        assert open_storage(s3_uri).create("a", DATA) == (fault != "lost_answer")
    assert proxy.met == {fault: 1}
    assert open_storage(s3_uri).read("a") == DATA


@pytest.mark.parametrize("read", ["read", "read_range"])
def test_answers_that_are_always_cut_short_are_an_error(s3: S3Server | CephGateway, s3_uri: str, read: str) -> None:
    problem = "cannot read: (got 30 bytes, expected 60|Expected checksum)"
    open_storage(s3_uri).write("a", DATA)
    arguments = {"offset": 10, "length": 60} if read == "read_range" else {}
    with (
        through(FaultyProxy(s3.url, rate=1, silence_s=SILENCE_S, faults=["short"])),
        pytest.raises(StorageError, match=rf"^{re.escape(s3_uri)}/a: {problem}"),
    ):
        getattr(open_storage(s3_uri), read)("a", **arguments)


def test_a_server_that_always_fails_is_an_error_naming_the_object(
    s3: S3Server | CephGateway, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with (
        through(FaultyProxy(s3.url, rate=1, silence_s=SILENCE_S, faults=["error_500"])),
        pytest.raises(StorageError, match=rf"^{s3_uri}/a: cannot write: .*InternalError"),
    ):
        open_storage(s3_uri).write("a", DATA)


@pytest.fixture(scope="module")
def build(s3: S3Server | CephGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FSSPEC_S3", json.dumps(CLIENT))
        with small_build(tmp_path_factory.mktemp("faulty"), per_class=5) as world:
            assert world.writers.run(world.task(CALM, name="calm")) == 0
            yield world


def _reads_right(cache: str, expected: dict[str, bytes]) -> bool:
    """Whether all could be read and was right; False where an error names the cache."""
    try:
        found, read = findings(cache), committed(cache)
    except KdRayError as error:
        if cache not in str(error):
            raise
        return False
    assert (found, read) == ((), expected)
    return True


CALM = f"s3://{BUCKET}/faulty-calm"
MANY = pytest.param(range(1, NUM_RUNS), marks=[pytest.mark.slow, pytest.mark.timeout(1500)])


@pytest.mark.parametrize("seeds", [range(1), MANY], ids=["one", "many"])
def test_a_build_with_faults_in_one_request_of_twenty(
    s3: S3Server | CephGateway, build: Build, seeds: range, tmp_path: Path
) -> None:
    expected = committed(CALM)
    clean = {"AWS_ENDPOINT_URL": s3.url}
    met, refused = 0, 0
    for seed in seeds:
        cache = f"s3://{BUCKET}/faulty-{seed}"
        proxy = FaultyProxy(s3.url, rate=0.05, seed=seed, silence_s=SILENCE_S)
        with through(proxy):
            errors = tmp_path / f"error-{seed}"
            task = build.task(cache, name=f"faulty-{seed}", errors=str(errors), environment=dict(os.environ))
            ended = build.writers.run(task)
            assert ended in (0, BAD_INPUT)
            if ended:
                assert "s3://" in errors.read_text()
                refused += 1
                assert build.writers.run(build.task(cache, name=f"clean-{seed}", environment=clean)) == 0
            refused += not _reads_right(cache, expected)
        met += proxy.met.total()
        assert committed(cache) == expected
        assert findings(cache) == ()
    assert met > 2 * len(seeds)
    print(f"{met} faults in {len(seeds)} runs, {refused} ended in an error")
