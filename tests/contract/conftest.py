"""One S3 server for all contract tests, with KD_RAY_S3=ceph a real Ceph; each test has a prefix of its own."""

import os
from collections.abc import Iterator

import pytest

from tests.support.ceph import CephGateway, ceph_gateway
from tests.support.s3 import BUCKET, S3Server, bucket_at, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server | CephGateway]:
    if os.environ.get("KD_RAY_S3") != "ceph":
        with s3_server() as server:
            yield server
        return
    with (
        ceph_gateway() as gateway,
        bucket_at(gateway.url, access_key=gateway.access_key, secret_key=gateway.secret_key),
    ):
        yield gateway


@pytest.fixture
def s3_uri(s3: S3Server | CephGateway, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name}"
