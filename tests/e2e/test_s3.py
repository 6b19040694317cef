"""The whole run with its images, shards, cache, checkpoints and outputs on an S3 server."""

import json
from collections.abc import Iterator

import pytest
import s3fs

from tests.support.processes import SMALL, kd_ray, ray_folder, run
from tests.support.s3 import BUCKET, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def filesystem() -> Iterator[s3fs.S3FileSystem]:
    with s3_server():
        yield s3fs.S3FileSystem()


def test_the_quickstart_lives_on_s3(filesystem: s3fs.S3FileSystem) -> None:
    with ray_folder() as folder:
        arguments = [f"out=s3://{BUCKET}/run", f"cluster.temp_dir={folder}", *SMALL, "train.checkpoint_every_steps=20"]
        done = run(kd_ray("conf/quickstart.yaml", *arguments), timeout_s=280)
        assert done.returncode == 0, done.stdout + done.stderr
        metrics = json.loads(filesystem.cat_file(f"{BUCKET}/run/metrics.json"))
        assert metrics["extract/teacher_forwards"] == 1438 * 2 + 359
        assert filesystem.exists(f"{BUCKET}/run/export/student/model.safetensors")
        again = run(kd_ray("conf/quickstart.yaml", *arguments))
        assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(filesystem.cat_file(f"{BUCKET}/run/metrics.json"))["extract/teacher_forwards"] == 0
