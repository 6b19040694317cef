"""Folders and listings on a real S3 server over HTTP, with credentials, without, and with a link to it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from kd_ray.config.corpus import Access, HashSplit, ListingSection
from kd_ray.corpus.source import Input, Rejected, Source
from kd_ray.corpus.sources.files import SourceFiles
from kd_ray.corpus.sources.folder import open_folder
from kd_ray.corpus.sources.listing import open_listing
from kd_ray.errors import StorageError
from tests.support.s3 import BUCKET, S3Server
from tests.support.secrets import SECRET_KEY

NAMES = ["a b/1&2.png", "a b/deep/%20?#[3].png", "c/ü.png", "readme.txt"]


@pytest.fixture
def images(s3_uri: str) -> str:
    """NAMES, each holding its own name, a hidden file, and the empty objects by which consoles make folders."""
    fs = s3fs.S3FileSystem()
    for name in [*NAMES, ".hidden/4.png"]:
        fs.pipe_file(f"{s3_uri}/{name}", name.encode(), ACL="public-read")
    for folder in ("", "c/"):
        fs.call_s3("put_object", Bucket=BUCKET, Key=f"{s3_uri.removeprefix(f's3://{BUCKET}/')}/{folder}", Body=b"")
    return s3_uri


def scanned(source: Source) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


@pytest.fixture(params=["credentials", "anonymous", "profile"])
def access(
    request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Access]:
    """Credentials and endpoint from the environment, none at all, or both from a named profile."""
    if request.param == "credentials":
        yield Access()
        return
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in (*keys, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    if request.param == "anonymous":
        yield Access(anonymous=True, endpoint_url=s3.url)
        return
    lines = ["[profile kd]", f"endpoint_url = {s3.url}", *(f"{name.lower()} = {key}" for name, key in keys.items())]
    (tmp_path / "config").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield Access(profile="kd")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_folder_is_scanned_and_fetched(images, access):
    source = open_folder(images, access=access, split=HashSplit())
    found = scanned(source)
    assert [each.location for each in found] == NAMES
    assert [each.data for each in found[:3]] == [name.encode() for name in NAMES[:3]]
    assert [each.label for each in found[:3]] == ["a b", "a b", "c"]
    assert found[3] == Rejected(location="readme.txt", reason="other_type", size_bytes=10)
    assert list(source.fetch([NAMES[2], NAMES[0]])) == [found[2], found[0]]


def test_a_folder_of_several_pages_is_listed_whole(s3_uri, s3):
    fs = s3fs.S3FileSystem()
    fs.pipe({f"{s3_uri}/{i:04d}.png": b"1" for i in range(1_001)} | {f"{s3_uri}/0500/x.png": b"1"})
    found = [each.location for each in SourceFiles(s3_uri).walk("")]
    assert found == sorted([f"{i:04d}.png" for i in range(1_001)] + ["0500/x.png"])


def test_a_listing_is_read_with_its_images(images, access, s3):
    rows = f'{{"image": "{NAMES[0]}"}}\n{{"image": "gone.png"}}\n{{"image": "{images}/{NAMES[2]}"}}\n'
    owner = s3fs.S3FileSystem(endpoint_url=s3.url, key="test", secret=SECRET_KEY)
    owner.pipe_file(f"{images}/l.jsonl", rows.encode(), ACL="public-read")
    section = ListingSection(kind="listing", uri=f"{images}/l.jsonl", access=access, label_column=None)
    source = open_listing(section, split=HashSplit())
    first, second, third = scanned(source)
    assert (first.data, third.data) == (NAMES[0].encode(), NAMES[2].encode())
    assert second == Rejected(location="gone.png", reason="missing", size_bytes=0)
    assert list(source.fetch([third.locator])) == [third]


def test_a_listing_on_this_machine_may_name_images_there(images, access, tmp_path):
    (tmp_path / "l.csv").write_text(f"image\n{images}/{NAMES[2]}\n")
    section = ListingSection(kind="listing", uri=str(tmp_path / "l.csv"), access=access, label_column=None)
    (found,) = scanned(open_listing(section, split=HashSplit()))
    assert found.data == NAMES[2].encode()


def test_versions_are_those_of_the_server(images):
    def versions() -> list[str]:
        return [extent.digest for extent in open_folder(images, access=Access(), split=HashSplit()).extents()]

    before = versions()
    assert versions() == before
    s3fs.S3FileSystem().pipe_file(f"{images}/{NAMES[0]}", NAMES[0].upper().encode())
    assert versions() != before


def test_ranges_are_cut_where_the_object_ends(images, s3):
    over_http = SourceFiles(f"{s3.url}/{images.removeprefix('s3://')}")
    for files in (SourceFiles(images), over_http):
        assert files.read_range("readme.txt", 2, 4) == b"ad"
        assert files.read_range("readme.txt", 8, 400) == b"xt"
        assert files.read_range("readme.txt", 50, 60) == b""
        with files.open("readme.txt") as file:
            file.seek(7)
            assert file.read() == b"txt"


def test_a_bucket_that_refuses_is_a_storage_error(images, s3, monkeypatch):
    if not isinstance(s3, S3Server):
        pytest.skip("a real server refuses nobody who knows its keys")

    def refuse(environ: dict[str, Any], start_response: Any) -> Any:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    monkeypatch.setattr(s3, "_app", refuse)
    with pytest.raises(StorageError, match=f"{images}: cannot list"):
        list(SourceFiles(images).walk(""))
    ((_, found),) = SourceFiles(images).read_each(["readme.txt"])
    assert found.reason == "permission_denied"
