"""How files are found and read: in a fixed order, on any location, and with what is wrong with one of them named."""

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from kd_ray.config.corpus import Access, HashSplit, PathSplit
from kd_ray.corpus.source import Entry, Rejected
from kd_ray.corpus.sources.files import SourceFiles, in_batches, split_roots, walk_splits
from kd_ray.corpus.sources.local_files import CHUNK_BYTES, LocalFiles
from kd_ray.corpus.sources.remote_files import RemoteFiles
from kd_ray.errors import CorpusError, StorageError
from tests.support.corpus_files import IMPOSSIBLE_URLS, write
from tests.support.web import web_server

NAMES = ["a/1.png", "a/b/2.png", "a/x y%20#?&[1].png", "a.png", "c/ü.png", "readme.txt"]


@pytest.fixture(params=["path", "file", "memory", "http"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourceFiles]:
    """NAMES, each holding its own name, and hidden ones."""
    for name in [*NAMES, ".hidden/3.png", "a/.4.png"]:
        write(tmp_path / name, name.encode())
    match request.param:
        case "path":
            yield SourceFiles(str(tmp_path))
        case "file":
            yield SourceFiles(f"file://{tmp_path}/")
        case "memory":
            memory = fsspec.filesystem("memory")
            memory.put(f"{tmp_path}/", f"/{tmp_path.name}/", recursive=True)
            yield SourceFiles(f"memory://{tmp_path.name}")
            memory.rm(f"/{tmp_path.name}", recursive=True)
        case "http":
            with web_server(tmp_path) as url:
                yield SourceFiles(url)


def walked(files: SourceFiles, below: str = "") -> list[str]:
    return [found.location for found in files.walk(below)]


def rejected(root: Path) -> dict[str, str]:
    return {each.location: each.reason for each in SourceFiles(str(root)).walk("") if isinstance(each, Rejected)}


class TestAnywhere:
    def test_visible_files_are_found_depth_first_by_name(self, files):
        assert walked(files) == [
            *("a/1.png", "a/b/2.png", "a/x y%20#?&[1].png"),
            *("a.png", "c/ü.png", "readme.txt"),
        ]

    def test_a_folder_or_a_file_below_can_be_walked_alone(self, files):
        assert walked(files, "a/b") == ["a/b/2.png"]
        assert walked(files, "readme.txt") == ["readme.txt"]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.png", ["a.png"]),
            ("*/*.png", ["a/1.png", "a/x y%20#?&[1].png", "c/ü.png"]),
            ("a/?.png", ["a/1.png"]),
            ("[bc]/*", ["c/ü.png"]),
            ("**/2.png", ["a/b/2.png"]),
            ("a/**", ["a/1.png", "a/b/2.png", "a/x y%20#?&[1].png"]),
            ("a/**/*.png", ["a/1.png", "a/b/2.png", "a/x y%20#?&[1].png"]),
        ],
    )
    def test_a_pattern_is_that_of_a_shell(self, files, pattern, expected):
        assert walked(files, pattern) == expected

    @pytest.mark.parametrize("below", ["nothing", "nothing/*.png", "*.jpg", "readme.txt/*"])
    def test_what_is_not_there_is_named(self, files, below):
        with pytest.raises(CorpusError, match=r"expected images there. Check corpus\.uri, and corpus\.split"):
            walked(files, below)

    def test_files_are_read_in_the_order_given_and_missing_ones_rejected(self, files):
        wanted = ["readme.txt", "gone.png", *NAMES * 20]
        found = dict(enumerate(files.read_each(wanted)))
        assert found.pop(1) == ("gone.png", Rejected(location="gone.png", reason="missing", size_bytes=0))
        assert list(found.values()) == [(name, name.encode()) for name in ["readme.txt", *NAMES * 20]]

    def test_ranges_are_cut_where_the_file_ends(self, files):
        assert files.read_range("readme.txt", 2, 4) == b"ad"
        assert files.read_range("readme.txt", 8, 400) == b"xt"
        assert files.read_range("readme.txt", 50, 60) == b""

    def test_an_opened_file_can_be_read_at_any_place(self, files):
        with files.open("readme.txt") as file:
            file.seek(7)
            assert file.read(3) == b"txt"
            file.seek(0)
            assert file.read() == b"readme.txt"

    def test_a_missing_file_is_a_missing_file(self, files):
        for read in (files.read, files.open, lambda name: files.read_range(name, 0, 1)):
            with pytest.raises(FileNotFoundError):
                read("gone.png")

    def test_lines_are_those_of_the_file(self, files):
        assert list(files.lines("readme.txt")) == [b"readme.txt"]

    def test_a_location_tells_files_from_folders(self, files):
        assert not files.is_file()
        assert SourceFiles(f"{files.uri.rstrip('/')}/readme.txt").is_file()
        assert not SourceFiles(f"{files.uri.rstrip('/')}/gone.txt").is_file()

    def test_they_travel_to_other_processes_when_in_use(self, files):
        files.read("readme.txt")
        assert pickle.loads(pickle.dumps(files)).read("readme.txt") == b"readme.txt"


class TestLocal:
    def test_a_rewritten_file_has_another_version(self, tmp_path):
        write(tmp_path / "1.png", b"old")
        (before,) = SourceFiles(str(tmp_path)).walk("")
        os.utime(tmp_path / "1.png", ns=(1, 1))
        (after,) = SourceFiles(str(tmp_path)).walk("")
        assert isinstance(before, Entry)
        assert after == Entry(location="1.png", size_bytes=3, version="1") != before

    def test_links_to_files_and_folders_are_followed(self, tmp_path):
        write(tmp_path / "elsewhere" / "1.png", b"1")
        write(tmp_path / "src" / "x" / "2.png", b"2")
        (tmp_path / "src" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "src" / "again").symlink_to("linked")
        (tmp_path / "src" / "file.png").symlink_to("x/2.png")
        files = SourceFiles(str(tmp_path / "src"))
        assert walked(files) == ["again/1.png", "file.png", "linked/1.png", "x/2.png"]

    def test_loops_of_links_are_named_and_left(self, tmp_path):
        for name in ("a/1.png", "b/2.png", "deep/er/3.png"):
            write(tmp_path / "src" / name, b"")
        links = {
            "self": "self",
            "one": "two",
            "two": "one",
            "here": ".",
            "above": "..",
            "deep/er/up": "../..",
            "a/to_b": "../b",
            "b/to_a": "../a",
        }
        for name, target in links.items():
            (tmp_path / "src" / name).symlink_to(target)
        loops = {"self", "one", "two", "here", "above", "deep/er/up", "a/to_b/to_a", "b/to_a/to_b"}
        assert rejected(tmp_path / "src") == dict.fromkeys(loops, "symlink_loop")
        found = set(walked(SourceFiles(str(tmp_path / "src")))) - loops
        assert found == {"a/1.png", "a/to_b/2.png", "b/2.png", "b/to_a/1.png", "deep/er/3.png"}

    def test_what_is_no_file_is_named_and_never_opened(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "null.png").symlink_to("/dev/null")
        (tmp_path / "dangling.png").symlink_to("nowhere")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s.png"))
            files = SourceFiles(str(tmp_path))
            expected = {
                "dangling.png": "missing",
                "null.png": "not_a_file",
                "pipe.png": "not_a_file",
                "s.png": "not_a_file",
            }
            assert rejected(tmp_path) == expected
            assert {name: each.reason for name, each in files.read_each(expected)} == expected

    def test_a_folder_in_place_of_a_file_is_no_file(self, tmp_path):
        (tmp_path / "x.png").mkdir()
        ((_, found),) = SourceFiles(str(tmp_path)).read_each(["x.png"])
        assert found.reason == "not_a_file"

    def test_names_that_are_no_text_are_named_escaped(self, tmp_path):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).write_bytes(b"")
        assert rejected(tmp_path) == {"\\xff.png": "unreadable"}

    def test_a_thousand_folders_deep_is_not_too_deep(self, tmp_path):
        depth = 1_100
        for i in range(depth):
            os.mkdir(f"{tmp_path}/{'d/' * (i + 1)}")
        write(Path(f"{tmp_path}/{'d/' * depth}1.png"), b"deep")
        try:
            (found,) = SourceFiles(str(tmp_path)).walk("")
        finally:  # too deep for what cleans up after the tests
            subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
        assert found.location == "d/" * depth + "1.png"

    @pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
    def test_lines_longer_than_what_is_read_at_once_are_whole(self, tmp_path, end):
        long = b"x" * (3 * CHUNK_BYTES - 1)
        write(tmp_path / "l", b"a\r\n" + long + b"\n" + long + b"y" + end)
        lines = [b"a\r\n", long + b"\n", long + b"y" + end[:1], *([b"\n"] if len(end) == 2 else [])]
        assert list(SourceFiles(str(tmp_path)).lines("l")) == lines

    def test_names_in_the_location_are_no_patterns(self, tmp_path):
        write(tmp_path / "src[1]" / "1.png", b"")
        assert walked(SourceFiles(str(tmp_path / "src[1]"))) == ["1.png"]

    def test_a_file_that_grows_is_read_to_its_end(self):
        # of size 0 to those who look
        assert SourceFiles("/proc/self").read("cmdline") == Path("/proc/self/cmdline").read_bytes() != b""

    @pytest.mark.skipif(sys.platform != "linux", reason="needs setuid")
    def test_what_may_not_be_read_is_named(self, tmp_path):
        for name in ("ok.png", "secret.png", "locked/1.png", "unlisted/2.png"):
            write(tmp_path / "src" / name, b"1")
        for folder in [tmp_path, *tmp_path.parents[:-1]]:
            if not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        (tmp_path / "src" / "secret.png").chmod(0)
        (tmp_path / "src" / "locked").chmod(0)
        (tmp_path / "src" / "unlisted").chmod(0o444)
        found = as_nobody(tmp_path / "src")
        for name in ("locked", "unlisted"):
            (tmp_path / "src" / name).chmod(0o755)
        assert found == {
            "locked": "permission_denied",
            "ok.png": "1",
            "secret.png": "permission_denied",
            "unlisted/2.png": "permission_denied",
        }

    def test_a_root_that_may_not_be_listed_is_a_storage_error(self, tmp_path):
        (tmp_path / "self").symlink_to("self")
        with pytest.raises(StorageError, match="self: cannot list"):
            walked(SourceFiles(str(tmp_path / "self")))


AS_NOBODY = """
import json, os, sys
from kd_ray.corpus.sources.files import SourceFiles
from kd_ray.corpus.source import Rejected

files = SourceFiles(sys.argv[1])
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
found = list(files.walk(""))
told = {each.location: each.reason for each in found if isinstance(each, Rejected)}
for name, data in files.read_each(each.location for each in found if not isinstance(each, Rejected)):
    told[name] = data.reason if isinstance(data, Rejected) else data.decode()
print(json.dumps(told))
"""


def as_nobody(root: Path) -> dict[str, str]:
    """What a plain user finds below `root`; root itself may read everything."""
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(root)], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("needs a plain user, or the right to become one")
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


class TestDisk:
    def failing(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        def read(files: LocalFiles, location: str) -> bytes:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(LocalFiles, "read", read)

    def test_a_bad_sector_is_the_fault_of_its_file(self, tmp_path, monkeypatch):
        self.failing(monkeypatch, errno.EIO)
        ((_, found),) = SourceFiles(str(tmp_path)).read_each(["1.png"])
        assert found == Rejected(location="1.png", reason="unreadable", size_bytes=0)

    def test_other_trouble_is_not(self, tmp_path, monkeypatch):
        self.failing(monkeypatch, errno.ENOMEM)
        with pytest.raises(StorageError, match=r"1\.png: cannot read"):
            list(SourceFiles(str(tmp_path)).read_each(["1.png"]))


class TestS3Answers:
    def read(self, code: str) -> object:
        """What is read where S3 answers `code`."""

        class Answering:
            def cat_file(self, path: str) -> bytes:
                raise translate_boto_error(ClientError({"Error": {"Code": code, "Message": code}}, "GetObject"))

        remote = RemoteFiles("s3://bucket/1.png", Access())
        remote.__dict__["_opened"] = (Answering(), "bucket/1.png")
        files = SourceFiles("s3://bucket/1.png")
        files.__dict__["_files"] = remote
        return files.read_or_refuse("")

    @pytest.mark.parametrize(
        "code", ["NoSuchKey", "NoSuchBucket", "InvalidBucketName", "InvalidURI", "KeyTooLongError"]
    )
    def test_a_name_that_is_none_is_missing(self, code):
        assert self.read(code) == Rejected(location="", reason="missing", size_bytes=0)

    @pytest.mark.parametrize("code", ["InternalError", "ServiceUnavailable", "SlowDown", "503", "InvalidToken", "New"])
    def test_an_outage_is_a_storage_error(self, code):
        with pytest.raises(StorageError, match="cannot read"):
            self.read(code)


@pytest.mark.parametrize("url", IMPOSSIBLE_URLS)
def test_a_location_that_cannot_be_is_not_found(url, no_s3):
    with pytest.raises((CorpusError, StorageError), match=r"not found|cannot (list|be reached)"):
        walked(SourceFiles(url))


class TestHttp:
    def test_what_is_refused_is_named(self, tmp_path):
        write(tmp_path / "forbidden.png", b"")
        with web_server(tmp_path) as url:
            ((_, found),) = SourceFiles(url).read_each(["forbidden.png"])
        assert found.reason == "permission_denied"

    def test_a_server_that_is_not_there_is_a_storage_error(self):
        files = SourceFiles("http://127.0.0.1:1/images")
        with pytest.raises(StorageError, match="cannot list"):
            walked(files)
        with pytest.raises(StorageError, match="cannot read"):
            files.read("1.png")

    def test_credentials_are_not_shown(self):
        with pytest.raises(StorageError) as raised:
            SourceFiles("http://me:secret@127.0.0.1:1/images?token=secret").read("")
        assert "secret" not in str(raised.value)


class TestAccess:
    def test_access_settings_are_for_s3_alone(self, tmp_path):
        with pytest.raises(CorpusError, match=r"corpus\.access is for s3:// only"):
            SourceFiles(str(tmp_path), Access(anonymous=True))

    def test_an_endpoint_is_a_url(self):
        with pytest.raises(CorpusError, match=r"endpoint_url: localhost:9000 does not begin with http"):
            SourceFiles("s3://bucket", Access(endpoint_url="localhost:9000"))

    def test_an_unknown_profile_is_a_storage_error(self):
        with pytest.raises(StorageError, match="profile"):
            walked(SourceFiles("s3://bucket", Access(profile="no-such-profile")))

    def test_an_unknown_scheme_is_named(self):
        with pytest.raises(CorpusError, match="weird://x: cannot be reached"):
            walked(SourceFiles("weird://x"))


class TestSplits:
    def test_content_decides_without_paths(self):
        assert split_roots(HashSplit()) == [(None, "")]

    def test_paths_are_taken_in_the_order_of_the_splits(self):
        split = PathSplit(train="./train/", val="val", test="more/test-*.tar")
        assert split_roots(split) == [("train", "train"), ("val", "val"), ("test", "more/test-*.tar")]
        assert split_roots(PathSplit(train=None, test="test")) == [("test", "test")]

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            *((".", "a"), ("a", "a/"), ("a/b", "a"), ("*.tar", "./*.tar")),
            *(("data", "data/test-*.tar"), (".", "*.tar")),
        ],
    )
    def test_one_within_another_is_refused(self, train, test):
        with pytest.raises(CorpusError, match="overlap, so images would be in both"):
            split_roots(PathSplit(train=train, test=test))

    @pytest.mark.parametrize(("train", "test"), [("a", "ab"), ("x-*.tar", "y-*.tar"), ("d/x-*.tar", "d/y.tar")])
    def test_neighbours_do_not_overlap(self, train, test):
        assert split_roots(PathSplit(train=train, test=test)) == [("train", train), ("test", test)]

    @pytest.mark.parametrize("path", ["../x", "/x", "a/../../x"])
    def test_a_path_may_not_leave_the_source(self, path):
        with pytest.raises(CorpusError, match=r"corpus\.split\.train.* is not below corpus\.uri"):
            split_roots(PathSplit(train=path, test="a"))

    def test_a_name_that_begins_with_dots_is_a_name(self):
        assert split_roots(PathSplit(train="..x", test="a"))[0] == ("train", "..x")

    def test_stars_within_a_name_are_refused(self):
        with pytest.raises(CorpusError, match="stands for whole folders"):
            split_roots(PathSplit(train="a**b", test="a"))

    def test_a_file_of_two_patterns_is_refused(self, tmp_path):
        for name in ("train-1.tar", "test-1.tar"):
            write(tmp_path / name, b"")
        split = PathSplit(train="t*.tar", test="test-*.tar")
        _, _, found = next(walk_splits(SourceFiles(str(tmp_path)), split))
        with pytest.raises(CorpusError, match=r"test-1\.tar: in two splits of corpus\.split, t\*\.tar and test-"):
            list(found)


def test_batches_are_of_equal_size_but_for_the_last():
    assert list(in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
