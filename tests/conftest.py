"""What holds for all tests, and the tiny world, made once a session."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from kd_ray.corpus.packed import PackedCorpus
    from kd_ray.extraction.plan import KnownTeacher

settings.register_profile("kd_ray", deadline=None)  # a busy machine is no failure
settings.load_profile("kd_ray")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread sums in one order, and does not wait for others on a busy machine (10 times, on 2 shared cores)."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> "PackedCorpus":
    """150 packed images in 3 classes; tests read it and leave it as it is."""
    from tests.support.tiny_world import pack_images, write_images

    folder: Path = tmp_path_factory.mktemp("tiny_corpus")
    write_images(folder / "source", per_class=50)
    return pack_images(folder / "source", folder / "packed")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> "KnownTeacher":
    """A saved ResNet-8 with random weights."""
    from tests.support.tiny_world import save_teacher

    return save_teacher(tmp_path_factory.mktemp("tiny_teacher"), seed=0)


@pytest.fixture
def no_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 endpoint where nobody answers."""
    import s3fs

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name, value in {**dict.fromkeys(names, "x"), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()  # instances remember the endpoint of their making
    yield
    s3fs.S3FileSystem.clear_instance_cache()
