"""One S3 server for all contract tests; each test has a prefix of its own."""

from collections.abc import Iterator

import pytest

from tests.support.s3 import BUCKET, S3Server, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_uri(s3: S3Server, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name}"
