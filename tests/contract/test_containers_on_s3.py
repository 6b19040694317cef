"""Tars and Parquet files on a real S3 server are scanned and fetched like local ones."""

import io
import tarfile
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray.config.corpus import HashSplit, ParquetCorpus, WebDatasetCorpus
from kd_ray.corpus.source import Input, Rejected, Source
from kd_ray.corpus.sources.parquet_source import open_parquet
from kd_ray.corpus.sources.webdataset import open_webdataset
from kd_ray.errors import CorpusError

SPLIT = HashSplit()


def put(uri: str, data: bytes) -> None:
    with fsspec.open(uri, "wb") as file:
        file.write(data)


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def scanned(source: Source) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


def tars(uri: str, **settings: Any) -> Source:
    return open_webdataset(WebDatasetCorpus(kind="webdataset", uri=uri, packed_uri="unused", **settings), split=SPLIT)


def tables(uri: str, **settings: Any) -> Source:
    return open_parquet(ParquetCorpus(kind="parquet", uri=uri, packed_uri="unused", **settings), split=SPLIT)


def test_tars(s3_uri):
    members = {f"{i}.{ending}": f"{i}{ending}".encode() * 5000 for i in range(200) for ending in ("png", "txt")}
    put(f"{s3_uri}/a/0.tar", tar_of(members))
    put(f"{s3_uri}/a/readme", b"text")
    source = tars(s3_uri)
    *found, other = scanned(source)
    assert other == Rejected(location="a/readme", reason="other_type", size_bytes=4)
    assert [(each.location, each.data) for each in found] == [(f"a/0.tar#{i}", members[f"{i}.png"]) for i in range(200)]
    wanted = found[3::17]
    assert list(source.fetch([each.locator for each in reversed(wanted)])) == wanted
    assert scanned(tars(f"{s3_uri}/a/0.tar"))[7].location == "0.tar#7"


def test_tars_with_access_settings(s3, s3_uri):
    put(f"{s3_uri}/0.tar", tar_of({"0.png": b"image", "0.cls": b"0"}))
    put(f"{s3_uri}/classes.json", b'["cat"]')
    access = {"endpoint_url": s3.url}
    [each] = scanned(tars(f"{s3_uri}/0.tar", access=access, classes_uri=f"{s3_uri}/classes.json"))
    assert (each.location, each.label) == ("0.tar#0", "cat")


def test_tables(s3_uri):
    data = [f"{i}".encode() * 3000 for i in range(300)]
    with fsspec.open(f"{s3_uri}/0.parquet", "wb") as file:
        pq.write_table(pa.table({"image": data, "label": list(range(300))}), file, row_group_size=64)
    source = tables(s3_uri)
    found = scanned(source)
    assert [(each.data, each.label) for each in found] == [(data[i], str(i)) for i in range(300)]
    again = source.fetch([f"0.parquet#{i}" for i in (299, 0, 64)])
    assert [each.data for each in again] == [data[0], data[64], data[299]]


def test_tables_of_locations(s3_uri):
    put(f"{s3_uri}/images/0.png", b"beside")
    put(f"{s3_uri}-far/1.png", b"elsewhere")
    locations = ["images/0.png", f"{s3_uri}-far/1.png", "images/2.png", "../3.png", "/etc/passwd", "file:///etc/passwd"]
    with fsspec.open(f"{s3_uri}/0.parquet", "wb") as file:
        pq.write_table(pa.table({"image": locations}), file)
    found = scanned(tables(s3_uri, label_column=None))[: len(locations)]
    assert [each.data for each in found[:2]] == [b"beside", b"elsewhere"]
    assert [each.reason for each in found[2:]] == ["missing", "unsafe_path", "unsafe_path", "unsafe_path"]


def test_what_is_gone_since_it_was_listed(s3_uri):
    put(f"{s3_uri}/0.tar", tar_of({"0.png": b"image"}))
    source = tars(s3_uri)
    [extent] = source.extents()
    [each] = source.scan(extent)
    fsspec.filesystem("s3").rm(f"{s3_uri}/0.tar")
    assert list(source.scan(extent)) == [Rejected(location="0.tar", reason="missing", size_bytes=10240)]
    with pytest.raises(CorpusError, match=r"0\.tar: it cannot be read"):
        list(source.fetch([each.locator]))
