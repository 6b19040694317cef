"""What every `Storage` must do: on a local folder, on a real S3 server over HTTP, and (reading) in fsspec's memory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Event
from typing import BinaryIO

import fsspec
import numpy as np
import pytest

from kd_ray.errors import StorageError
from kd_ray.storage import FsspecStorage, LocalStorage, Storage, open_storage
from tests.support.s3 import S3Server

NUM_RACERS = 8


def _storage(kind: str, request: pytest.FixtureRequest) -> Storage:
    match kind:
        case "local":
            return open_storage(str(request.getfixturevalue("tmp_path") / "root"))
        case "s3":
            return open_storage(request.getfixturevalue("s3_uri"))
        case _:
            fsspec.filesystem("memory").store.clear()
            return open_storage("memory://root/folder")


@pytest.fixture(params=["local", "s3", "memory"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return _storage(request.param, request)


@pytest.fixture(params=["local", "s3"])
def atomic(request: pytest.FixtureRequest) -> Storage:
    """A storage with conditional create."""
    return _storage(request.param, request)


@pytest.mark.parametrize(
    ("uri", "kind"), [("s3://b/x", FsspecStorage), ("/x", LocalStorage), ("file:///x", LocalStorage)]
)
def test_the_uri_decides_the_kind_of_storage(uri: str, kind: type[Storage]) -> None:
    assert isinstance(open_storage(uri), kind)


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write("a/b.bin", b"\x00\xff data")
    assert storage.read("a/b.bin") == b"\x00\xff data"


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.write("empty", b"")
    assert (storage.exists("empty"), storage.size_bytes("empty"), storage.read("empty")) == (True, 0, b"")


def test_writing_again_replaces(storage: Storage) -> None:
    storage.write("a", b"a longer first version")
    storage.write("a", b"second")
    assert storage.read("a") == b"second"


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 3, b"012"), (4, 2, b"45"), (8, 5, b"89"), (10, 4, b""), (50, 4, b""), (0, 10, b"0123456789")],
)
def test_a_range_is_shorter_only_where_the_object_ends(
    storage: Storage, offset: int, length: int, expected: bytes
) -> None:
    storage.write("digits", b"0123456789")
    assert storage.read_range("digits", offset=offset, length=length) == expected
    seen = list[bytes]()
    data = storage.load_range("digits", offset=offset, length=length, seen=lambda part: seen.append(part.tobytes()))
    assert data.tobytes() == b"".join(seen) == expected


def test_large_ranges_come_part_by_part(storage: Storage) -> None:
    data = np.arange(700_000, dtype="<u4").view(np.uint8)
    storage.write("numbers", data.tobytes())
    seen = list[bytes]()
    for length in (len(data) - 7, len(data), 3):  # the second reaches beyond the end
        seen.clear()
        found = storage.load_range("numbers", offset=7, length=length, seen=lambda part: seen.append(part.tobytes()))
        assert b"".join(seen) == found.tobytes() == data[7 : 7 + length].tobytes()


def test_size_is_that_of_the_object(storage: Storage) -> None:
    storage.write("a", b"12345")
    assert storage.size_bytes("a") == 5


def test_exists_is_about_objects_not_folders_or_prefixes(storage: Storage) -> None:
    storage.write("folder/name.json", b"x")
    names = ("folder/name.json", "folder", "folder/name", "other")
    assert [storage.exists(name) for name in names] == [True, False, False, False]


def test_list_gives_sorted_names_of_everything_below_the_folder_and_nothing_beside_it(storage: Storage) -> None:
    for name in ("a/z", "a/b/c", "a/b.json", "ab/c", "d"):
        storage.write(name, b"x")
    assert storage.list("a") == ["a/b.json", "a/b/c", "a/z"]
    assert storage.list("") == ["a/b.json", "a/b/c", "a/z", "ab/c", "d"]


@pytest.mark.parametrize("prefix", ["", "nowhere", "nowhere/deeper"])
def test_listing_where_there_is_nothing_gives_nothing(storage: Storage, prefix: str) -> None:
    assert storage.list(prefix) == storage.folders(prefix) == []


def test_nothing_is_below_an_object(storage: Storage) -> None:
    storage.write("a/object", b"x")
    assert storage.list("a/object") == storage.folders("a/object") == []


def test_an_inventory_has_the_size_and_time_of_what_a_list_names(storage: Storage) -> None:
    before_s = time.time()
    for name in ("a/z", "a/b/c", "ab/c"):
        storage.write(name, name.encode())
    found = storage.inventory("a")
    assert list(found) == storage.list("a") == ["a/b/c", "a/z"]
    assert [each.size_bytes for each in found.values()] == [5, 3]
    # servers tell whole seconds, and have clocks of their own
    assert all(abs(each.modified_s - before_s) < 60 for each in found.values())
    assert storage.inventory("nowhere") == storage.inventory("a/z") == {}


def test_folders_are_those_directly_below(storage: Storage) -> None:
    for name in ("a/y/1", "a/x/deep/2", "a/file", "other/z"):
        storage.write(name, b"x")
    assert storage.folders("a") == ["x", "y"]
    assert storage.folders("") == ["a", "other"]


def test_a_new_object_is_seen_at_once_after_a_listing(storage: Storage) -> None:
    storage.write("a/1", b"x")
    storage.list("a")
    storage.folders("")
    storage.write("a/2", b"x")
    storage.write("b/3", b"x")
    assert (storage.list("a"), storage.folders("")) == (["a/1", "a/2"], ["a", "b"])


@pytest.mark.parametrize("method", ["read", "size_bytes"])
def test_a_missing_object_is_file_not_found(storage: Storage, method: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(storage, method)("nowhere/nothing")


def test_a_range_of_a_missing_object_is_file_not_found(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_range("nowhere/nothing", offset=0, length=4)
    with pytest.raises(FileNotFoundError):
        storage.load_range("nowhere/nothing", offset=0, length=4, seen=len)


def test_remove_takes_an_object_or_a_folder_and_nothing_beside_it(storage: Storage) -> None:
    for name in ("a/1", "a/b/2", "ab/3", "c", "cd"):
        storage.write(name, b"x")
    storage.remove("a")
    storage.remove("c")
    assert storage.list("") == ["ab/3", "cd"]


def test_removing_nothing_is_no_error(storage: Storage) -> None:
    storage.remove("nowhere/nothing")
    assert storage.list("") == []


def test_create_refuses_a_name_that_is_taken_and_leaves_its_bytes(atomic: Storage) -> None:
    assert atomic.create("a/commit.json", b"first")
    assert not atomic.create("a/commit.json", b"second")
    assert atomic.read("a/commit.json") == b"first"


def test_of_racing_creates_exactly_one_wins_and_its_bytes_stand(atomic: Storage) -> None:
    start = Barrier(NUM_RACERS)

    def race(racer: int) -> bool:
        start.wait()
        return atomic.create("race", b"%d" % racer)

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        won = list(pool.map(race, range(NUM_RACERS)))
    assert sum(won) == 1
    assert atomic.read("race") == b"%d" % won.index(True)
    assert atomic.list("") == ["race"]


def test_nothing_temporary_is_listed_while_others_write(atomic: Storage) -> None:
    stop = Event()

    def write_on() -> None:
        while not stop.is_set():
            atomic.write("a/1", b"x" * 10_000)
            atomic.create("a/2", b"x" * 10_000)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_on)
        seen = {name for _ in range(15) for name in atomic.list("")}
        stop.set()
        writing.result()
    assert seen <= {"a/1", "a/2"}


def test_a_crash_in_mid_write_leaves_nothing_listed(tmp_path: Path) -> None:
    killed_in_fsync = "import os, sys; os.fsync = lambda _: os._exit(9)\n" + (
        "from kd_ray.storage import open_storage; open_storage(sys.argv[1]).create('a/commit', b'half')"
    )
    done = subprocess.run([sys.executable, "-c", killed_in_fsync, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert any(path.is_file() for path in tmp_path.rglob("*"))  # the temporary file is there,
    assert open_storage(str(tmp_path)).list("") == []  # and is no object,
    (left,) = open_storage(str(tmp_path)).inventory("")  # but can be found to be removed
    assert left.endswith(".partial")
    assert open_storage(str(tmp_path)).create("a/commit", b"whole")


def test_memory_refuses_create_since_it_could_not_be_atomic() -> None:
    with pytest.raises(StorageError, match=r"memory://x: memory has no conditional create"):
        open_storage("memory://x").create("a", b"")


def test_s3_conflict_is_tried_again(s3_uri: str, s3: S3Server) -> None:
    if not isinstance(s3, S3Server):
        pytest.skip("a real server has no conflicts to order")
    s3.conflicts_left = 2
    assert open_storage(s3_uri).create("a", b"x")
    assert s3.conflicts_left == 0


def test_a_missing_bucket_is_a_storage_error_when_written_to(s3: S3Server) -> None:
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/a/b: cannot write: .*[Bb]ucket"):
        open_storage("s3://no-such-bucket/a").write("b", b"")


def test_no_credentials_is_a_storage_error(s3: S3Server) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    program = (
        "from kd_ray.storage import open_storage; from kd_ray.errors import StorageError\n"
        "try: open_storage('s3://bucket/a').write('b', b'')\n"
        "except StorageError as error: print(error)"
    )
    offline = {**environment, "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": s3.url, "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", program], env=offline, capture_output=True, text=True, check=True)
    assert done.stdout == "s3://bucket/a/b: cannot write: Unable to locate credentials.\n"


def test_an_object_in_the_way_of_a_folder_is_a_storage_error_naming_the_location(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("a", b"x")
    with pytest.raises(StorageError, match=f"{tmp_path}/a/b: cannot write"):
        storage.write("a/b", b"x")


def test_what_goes_wrong_in_what_is_being_written_keeps_its_own_words(atomic: Storage) -> None:
    def produce(file: BinaryIO) -> None:
        file.write(b"half")
        raise StorageError("src/2.png: cannot read: Input/output error.")

    with pytest.raises(StorageError, match=r"^src/2\.png: cannot read"):
        atomic.write_from("a", produce)
    assert atomic.list("") == []


def test_a_scheme_that_needs_something_installed_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as where it is not installed
    with pytest.raises(StorageError, match=r"^gs://bucket/a: cannot be reached: .*install gcsfs"):
        open_storage("gs://bucket/a").read("b")


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Permissions do not bind root, which is who runs tests in a container."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("verb", "act"),
    [
        ("read", lambda storage: storage.read("folder/a")),
        ("read", lambda storage: storage.read_range("folder/a", offset=0, length=1)),
        ("read", lambda storage: storage.load_range("folder/a", offset=0, length=1, seen=len)),
        ("read", lambda storage: storage.size_bytes("folder/a")),
        ("read", lambda storage: storage.exists("folder/a")),
        ("list", lambda storage: storage.list("folder")),
        ("list", lambda storage: storage.list("")),
        ("list", lambda storage: storage.folders("folder")),
        ("write", lambda storage: storage.write("folder/a", b"y")),
        ("write", lambda storage: storage.create("folder/b", b"y")),
        ("remove", lambda storage: storage.remove("folder/a")),
    ],
    ids=[
        "read",
        "read_range",
        "load_range",
        "size_bytes",
        "exists",
        "list",
        "list_above",
        "folders",
        "write",
        "create",
        "remove",
    ],
)
def test_permission_denied_is_a_storage_error_naming_the_location(
    world_readable: Path, verb: str, act: Callable[[Storage], object]
) -> None:
    storage = open_storage(str(world_readable))
    storage.write("folder/a", b"x")
    (world_readable / "folder").chmod(0)
    try:
        with _as_nobody(), pytest.raises(StorageError, match=f"^{world_readable}.*: cannot {verb}: Permission denied"):
            act(storage)
    finally:
        (world_readable / "folder").chmod(0o700)


@pytest.fixture
def world_readable() -> Iterator[Path]:
    """A folder that any user reaches, unlike tmp_path."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
