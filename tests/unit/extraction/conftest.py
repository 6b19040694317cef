"""A smaller corpus than elsewhere: many of these tests run the teacher over all of it."""

import pytest

from kd_ray.corpus.packed import PackedCorpus
from tests.support.tiny_world import pack_images, write_images


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    """60 images in 3 classes, about 48 of them for training: two spans of four row groups, the second one short."""
    folder = tmp_path_factory.mktemp("smaller_corpus")
    write_images(folder / "source", per_class=20)
    return pack_images(folder / "source", folder / "packed")
