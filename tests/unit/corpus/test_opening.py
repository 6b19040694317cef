"""A corpus is not packed into its own source, however the two locations are written."""

from pathlib import Path

import pytest

from kd_ray.config.corpus import FolderCorpus
from kd_ray.corpus.sources.opening import open_sources
from kd_ray.errors import CorpusError


def opened(uri: str, packed_uri: str) -> list[str]:
    """The locations of the sources."""
    sources = open_sources(FolderCorpus(kind="folder", uri=uri, packed_uri=packed_uri))
    return [named.source.uri for named in sources]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `img`, which `link` leads to, and `img/out`, which leads elsewhere."""
    for name in ("img", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("img")
    (tmp_path / "img" / "out").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "packed_uri"),
    [
        ("img", "img"),
        ("img", "img/packed"),
        ("img/", "./img/packed"),
        ("./img", "img//packed"),
        ("img", "other/../img/packed"),
        ("img", "{here}/img/packed"),
        ("{here}/img", "file://{here}/img/packed"),
        ("file://{here}/img", "{here}/img/packed"),
        ("img", "link/packed"),
        ("link", "img/packed"),
        ("img", "img/out"),
        (".", "packed"),
        ("/", "/packed"),
        ("s3://bucket", "s3://bucket/packed"),
        ("s3://bucket/img/", "s3a://bucket/img/packed"),
        ("s3://bucket/img", "s3://bucket/./img//packed"),
        ("memory://", "memory:///packed"),
    ],
)
def test_within_the_source_is_refused(here: Path, uri: str, packed_uri: str) -> None:
    with pytest.raises(CorpusError, match="lies within the source"):
        opened(uri.format(here=here), packed_uri.format(here=here))


@pytest.mark.parametrize(
    ("uri", "packed_uri"),
    [
        ("img", "packed"),
        ("img", "img-packed"),
        ("img/a", "img"),
        ("s3://bucket/img", "s3://bucket/img-packed"),
        ("s3://bucket/img", "s3://bucket2/img/packed"),
        ("s3://bucket/img", "gs://bucket/img/packed"),
        ("s3://img", "img/packed"),
    ],
)
def test_beside_it_passes(uri: str, packed_uri: str) -> None:
    assert opened(uri, packed_uri) == [uri]
