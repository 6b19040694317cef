"""Images and masks in two folders: which belong together, and what has no counterpart."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kd_ray.config.corpus import HashSplit, PathSplit, SegmentationSection, Split
from kd_ray.corpus.source import Input, Rejected
from kd_ray.corpus.sources.segmentation import SegmentationSource, open_segmentation
from kd_ray.errors import CorpusError
from tests.support.corpus_files import write
from tests.support.shared_data import shared_data


def opened(uri: Path, *, split: Split | None = None, **settings: Any) -> SegmentationSource:
    section = SegmentationSection(kind="segmentation", uri=str(uri), **settings)
    return open_segmentation(section, split=split or HashSplit())


def scanned(source: SegmentationSource) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


def pairs(source: SegmentationSource) -> dict[bytes, bytes | None]:
    return {each.data: each.mask for each in scanned(source) if isinstance(each, Input)}


def reasons(source: SegmentationSource) -> dict[str, str]:
    return {each.location: each.reason for each in scanned(source) if isinstance(each, Rejected)}


def write_all(root: Path, *names: str) -> None:
    for name in names:
        write(root / name, name.encode())


def test_files_of_equal_path_but_for_the_suffix_belong_together(tmp_path):
    write_all(tmp_path, "images/a.jpg", "images/deep/a.x.jpg", "images/a.k.JPG")
    write_all(tmp_path, "masks/a.png", "masks/deep/a.x.png", "masks/a.k.png")
    source = opened(tmp_path)
    assert pairs(source) == {
        b"images/a.jpg": b"masks/a.png",
        b"images/a.k.JPG": b"masks/a.k.png",
        b"images/deep/a.x.jpg": b"masks/deep/a.x.png",
    }
    assert reasons(source) == {}
    assert {each.label for each in scanned(source)} == {None}


def test_what_has_no_counterpart_is_named_where_it_is(tmp_path):
    write_all(tmp_path, "images/1.jpg", "images/2.jpg", "images/notes.txt")
    write_all(tmp_path, "masks/1.png", "masks/3.png", "masks/sub/2.png", "masks/classes.json")
    assert reasons(opened(tmp_path)) == {
        "images/2.jpg": "no_mask",
        "images/notes.txt": "other_type",
        "masks/3.png": "no_image",
        "masks/classes.json": "other_type",
        "masks/sub/2.png": "no_image",
    }


def test_of_two_masks_the_first_is_taken_and_the_other_named(tmp_path):
    write_all(tmp_path, "images/1.jpg", "masks/1.bmp", "masks/1.png")
    source = opened(tmp_path)
    assert pairs(source) == {b"images/1.jpg": b"masks/1.bmp"}
    assert reasons(source) == {"masks/1.png": "no_image"}


def test_each_split_has_folders_of_its_own(tmp_path):
    write_all(tmp_path, "train/rgb/x/1.jpg", "train/gt/x/1.png", "test/rgb/x/1.jpg", "test/gt/x/1.png")
    source = opened(tmp_path, split=PathSplit(train="train", test="test"), images="rgb", masks="gt/")
    assert [extent.split for extent in source.extents()] == ["train", "test"]
    assert pairs(source) == {b"train/rgb/x/1.jpg": b"train/gt/x/1.png", b"test/rgb/x/1.jpg": b"test/gt/x/1.png"}


def test_pairs_are_fetched_by_their_locators_on_another_machine(tmp_path):
    for i in range(5):
        write_all(tmp_path, f"images/{i}\n.jpg", f"masks/{i}\n.png")
    source = opened(tmp_path)
    inputs = {each.locator: each for each in scanned(source)}
    wanted = [sorted(inputs)[i] for i in (3, 0)]
    assert list(pickle.loads(pickle.dumps(source)).fetch(wanted)) == [inputs[locator] for locator in wanted]


def test_a_mask_that_vanishes_after_the_listing_is_missing(tmp_path):
    write_all(tmp_path, "images/1.jpg", "masks/1.png", "images/2.jpg", "masks/2.png")
    source = opened(tmp_path)
    (extent,) = source.extents()
    (tmp_path / "masks/1.png").unlink()
    first, second = source.scan(extent)
    assert first == Rejected(location="masks/1.png", reason="missing", size_bytes=23)
    assert second.mask == b"masks/2.png"
    with pytest.raises(CorpusError, match=r"masks/1\.png: missing, though"):
        list(source.fetch(["images/1.jpg\0masks/1.png"]))


def test_the_digest_changes_with_a_mask(tmp_path):
    write_all(tmp_path, "images/1.jpg", "masks/1.png")
    (before,) = opened(tmp_path).extents()
    (same,) = opened(tmp_path).extents()
    write(tmp_path / "masks/1.png", b"another one")
    (after,) = opened(tmp_path).extents()
    assert before.digest == same.digest != after.digest


def test_a_missing_mask_folder_is_a_mistake(tmp_path):
    write_all(tmp_path, "images/1.jpg")
    with pytest.raises(CorpusError, match="masks: not found"):
        scanned(opened(tmp_path))


def test_no_images_are_a_mistake(tmp_path):
    write_all(tmp_path, "images/notes.txt", "masks/1.png")
    with pytest.raises(CorpusError, match="images: no images among its 1 visible files"):
        scanned(opened(tmp_path))


def test_a_pattern_is_no_place_for_two_folders(tmp_path):
    with pytest.raises(CorpusError, match=r"train-\* is a pattern"):
        opened(tmp_path, split=PathSplit(train="train-*", test="test"))


@pytest.mark.parametrize("masks", ["images", "images/masks", "../masks", "/masks", ".", "m*"])
def test_masks_lie_in_a_folder_of_their_own_below_the_split(tmp_path, masks):
    with pytest.raises(CorpusError, match="Give"):
        opened(tmp_path, masks=masks)


def test_camvid_is_read_whole():
    root = shared_data("camvid")
    splits = sorted(path.name for path in root.iterdir() if (path / "images").is_dir())
    train, test = ("train" if "train" in splits else splits[0]), "test"
    source = opened(root, split=PathSplit(train=train, test=test))
    counts = Counter(extent.split for extent in source.extents() for _ in source.scan(extent))
    assert counts["test"] == len(list((root / "test/images").iterdir()))
    assert reasons(source) == {}
    for data, mask in pairs(source).items():
        assert data.startswith(b"\xff\xd8")
        assert mask is not None
        assert mask.startswith(b"\x89PNG")
