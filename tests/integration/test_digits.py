"""The digits: written once as PNG files, and read as a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kd_ray.config.corpus import Access, HashSplit
from kd_ray.corpus.source import Input
from kd_ray.corpus.sources.digits import COMPLETE, write_digits
from kd_ray.corpus.sources.folder import open_folder
from kd_ray.errors import CorpusError
from tests.support.corpus_files import tree, write


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(str(folder))
    return folder


def test_they_are_a_folder_of_ten_classes(digits):
    source = open_folder(str(digits), access=Access(), split=HashSplit())
    labels = [each.label for extent in source.extents() for each in source.scan(extent) if isinstance(each, Input)]
    assert len(labels) == 1797
    assert set(labels) == set("0123456789")


def test_a_png_holds_what_scikit_learn_has(digits):
    with Image.open(digits / "3" / "0003.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.rint(np.asarray(image, float) * 16 / 255), load_digits().images[3])


def test_they_are_written_once(digits):
    before = (digits / COMPLETE).stat().st_mtime_ns
    write_digits(str(digits))
    assert (digits / COMPLETE).stat().st_mtime_ns == before


def test_a_crash_while_writing_is_repaired(digits, tmp_path):
    write(tmp_path / "src" / "0" / "0000.png", b"torn")
    write_digits(str(tmp_path / "src"))
    assert tree(tmp_path / "src") == tree(digits)


def test_a_folder_with_other_files_is_refused(tmp_path):
    write(tmp_path / "mine.jpg", b"")
    with pytest.raises(CorpusError, match=r"holds 1 files that are not the digits \(mine\.jpg\)"):
        write_digits(str(tmp_path))
