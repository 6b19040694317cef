"""Folders of images: which are classes, what is left aside, and which mistakes are named."""

import pickle
from pathlib import Path

import pytest

from kd_ray.config.corpus import Access, HashSplit, PathSplit, Split
from kd_ray.corpus.source import Input, Rejected
from kd_ray.corpus.sources import folder
from kd_ray.corpus.sources.extents import FILES_PER_EXTENT
from kd_ray.corpus.sources.folder import FolderSource, open_folder
from kd_ray.errors import CorpusError
from tests.support.corpus_files import png, write
from tests.support.web import web_server


def opened(uri: Path | str, *, split: Split | None = None) -> FolderSource:
    return open_folder(str(uri), access=Access(), split=split or HashSplit())


def scanned(source: FolderSource) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


def labels(source: FolderSource) -> dict[str, str | None]:
    return {each.location: each.label for each in scanned(source) if isinstance(each, Input)}


def digests(source: FolderSource) -> list[str]:
    return [extent.digest for extent in source.extents()]


def test_sub_folders_are_classes(tmp_path):
    write(tmp_path / "b" / "deep" / "1.png", png(1))
    write(tmp_path / "a" / "2.PNG", png(2))
    write(tmp_path / "a" / "3.img", b"of an old scanner")
    source = opened(tmp_path)
    assert source.class_names() == ()
    assert not source.is_sequential
    assert scanned(source) == [
        Input(location="a/2.PNG", locator="a/2.PNG", data=png(2), label="a"),
        Input(location="a/3.img", locator="a/3.img", data=b"of an old scanner", label="a"),
        Input(location="b/deep/1.png", locator="b/deep/1.png", data=png(1), label="b"),
    ]


def test_images_alone_are_unlabelled(tmp_path):
    write(tmp_path / "1.png", png(1))
    assert labels(opened(tmp_path)) == {"1.png": None}


def test_classes_lie_below_the_folder_of_their_split(tmp_path):
    for name in ("data/train/b/1.png", "data/val/a/2.png", "data/test/a/x/3.png"):
        write(tmp_path / name, name.encode())
    source = opened(tmp_path, split=PathSplit(train="data/train/", val="data/val", test="./data/test"))
    assert [extent.split for extent in source.extents()] == ["train", "val", "test"]
    assert labels(source) == {"data/train/b/1.png": "b", "data/val/a/2.png": "a", "data/test/a/x/3.png": "a"}


def test_classes_of_a_pattern_lie_below_its_fixed_part(tmp_path):
    for name in ("data/cat/1-train.png", "data/dog/2-train.png", "data/cat/3-test.png"):
        write(tmp_path / name, b"")
    source = opened(tmp_path, split=PathSplit(train="data/*/*-train.png", test="data/*/*-test.png"))
    assert labels(source) == {
        "data/cat/1-train.png": "cat",
        "data/dog/2-train.png": "dog",
        "data/cat/3-test.png": "cat",
    }


def test_one_image_alone_may_be_a_split(tmp_path):
    write(tmp_path / "train" / "a" / "1.png", b"")
    write(tmp_path / "held" / "2.png", b"")
    source = opened(tmp_path, split=PathSplit(train="train", test="held/2.png"))
    assert labels(source) == {"train/a/1.png": "a", "held/2.png": None}


def test_what_claims_to_be_no_image_is_of_another_type(tmp_path):
    write(tmp_path / "a" / "1.png", png(1))
    write(tmp_path / "a" / "notes.txt", b"12345")
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    write(tmp_path / ".hidden" / "3.png", png(3))
    assert scanned(opened(tmp_path))[1:] == [
        Rejected(location="a/gone", reason="missing", size_bytes=0),
        Rejected(location="a/notes.txt", reason="other_type", size_bytes=5),
    ]


def test_an_image_that_vanishes_after_the_listing_is_missing_with_its_size(tmp_path):
    for name in ("1.png", "2.png", "3.png"):
        write(tmp_path / name, name.encode())
    source = opened(tmp_path)
    (extent,) = source.extents()
    (tmp_path / "2.png").unlink()
    found = list(source.scan(extent))
    assert [each.location for each in found] == ["1.png", "2.png", "3.png"]
    assert found[1] == Rejected(location="2.png", reason="missing", size_bytes=5)


def test_extents_hold_a_bounded_number_of_files_in_few_bytes(tmp_path):
    for i in range(FILES_PER_EXTENT + 3):
        write(tmp_path / f"class-{i % 7}" / f"{i:08d}.png", b"12")
    full, rest = opened(tmp_path).extents()
    assert (full.num_inputs, rest.num_inputs) == (FILES_PER_EXTENT, 3)
    assert (full.num_bytes, rest.num_bytes) == (2 * FILES_PER_EXTENT, 6)
    assert len(full.payload) < 60 * FILES_PER_EXTENT


def test_the_digest_changes_with_a_file_and_with_nothing_else(tmp_path):
    for i in range(4):
        write(tmp_path / "a" / f"{i}.png", png(i))
    before = digests(opened(tmp_path))
    assert digests(opened(tmp_path)) == before
    write(tmp_path / "a" / "0.png", png(99) + b"\0")
    assert digests(opened(tmp_path)) != before


def test_inputs_are_fetched_by_their_locators_on_another_machine(tmp_path):
    for name in ("a/1.png", "a/img[1]*?.png", "b/3.png"):
        write(tmp_path / name, name.encode())
    source = opened(tmp_path)
    inputs = {each.locator: each for each in scanned(source)}
    wanted = ["b/3.png", "a/img[1]*?.png"]
    assert list(pickle.loads(pickle.dumps(source)).fetch(wanted)) == [inputs[locator] for locator in wanted]


def test_a_fetch_of_what_is_gone_says_so(tmp_path):
    write(tmp_path / "1.png", b"")
    with pytest.raises(CorpusError, match=r"2\.png: missing, though it was there when the source was scanned"):
        list(opened(tmp_path).fetch(["1.png", "2.png"]))


def test_a_folder_on_the_web_is_read_like_any_other(tmp_path):
    write(tmp_path / "a b" / "1&2.png", png(1))
    write(tmp_path / "c" / "3.png", png(3))
    with web_server(tmp_path) as url:
        source = opened(url)
        assert labels(source) == {"a b/1&2.png": "a b", "c/3.png": "c"}
        assert next(source.fetch(["c/3.png"])).data == png(3)


def test_no_images_at_all_is_a_mistake(tmp_path):
    write(tmp_path / "readme.txt", b"")
    with pytest.raises(CorpusError, match=r"no images among its 1 visible files; expected names ending in \.bmp"):
        scanned(opened(tmp_path))


def test_an_empty_split_is_a_mistake(tmp_path):
    write(tmp_path / "a" / "1.png", b"")
    (tmp_path / "val").mkdir()
    with pytest.raises(CorpusError, match="val: no images among its 0 visible files"):
        scanned(opened(tmp_path, split=PathSplit(train="a", test="val")))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"src: not found.*Check corpus\.uri"):
        scanned(opened(tmp_path / "src"))


def test_a_file_is_no_folder(tmp_path):
    write(tmp_path / "1.png", png(1))
    with pytest.raises(CorpusError, match=r"1\.png: is a file; corpus\.kind folder needs a folder"):
        scanned(opened(tmp_path / "1.png"))
    with pytest.raises(CorpusError, match=r"1\.png/train: not found.*corpus\.split"):
        scanned(opened(tmp_path / "1.png", split=PathSplit()))


def test_strays_beside_class_folders_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "FILES_PER_EXTENT", 2)
    for name in ("0.png", "1.png", "2.txt", "a/1.png", "a/2.png", "a/3.txt", "b/1.png", "z.png"):
        write(tmp_path / name, png(1))
    found = {each.location: getattr(each, "reason", None) for each in scanned(opened(tmp_path))}
    assert found == {
        "0.png": "no_class",
        "1.png": "no_class",
        "2.txt": "other_type",
        "a/1.png": None,
        "a/2.png": None,
        "a/3.txt": "other_type",
        "b/1.png": None,
        "z.png": "no_class",
    }


def test_where_most_images_lie_beside_the_class_folders_that_is_a_mistake(tmp_path):
    for name in ("a/1.png", "2.png", "3.png"):
        write(tmp_path / name, b"")
    with pytest.raises(CorpusError, match=r"2 images \(2\.png is one\) lie beside class folders with 1 \(a/1\.png"):
        scanned(opened(tmp_path))


def test_a_file_is_looked_at_again_once_it_may_be_read(tmp_path):
    write(tmp_path / "1.png", png(1))
    (tmp_path / "1.png").chmod(0o200)
    (before,) = opened(tmp_path).extents()
    (tmp_path / "1.png").chmod(0o644)
    (after,) = opened(tmp_path).extents()
    assert before.digest != after.digest


def test_splits_that_overlap_are_refused_at_once(tmp_path):
    with pytest.raises(CorpusError, match="overlap"):
        opened(tmp_path, split=PathSplit(train=".", test="a"))
