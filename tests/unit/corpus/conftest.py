"""What the tests of the corpus share."""

from collections.abc import Iterator

import pytest
import s3fs


@pytest.fixture
def no_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 endpoint where nobody answers."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name, value in {**dict.fromkeys(names, "x"), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()  # instances remember the endpoint of their making
    yield
    s3fs.S3FileSystem.clear_instance_cache()
