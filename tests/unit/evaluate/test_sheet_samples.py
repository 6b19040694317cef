"""Samples to look at are those that packing stores, whether or not it has been done."""

from pathlib import Path

import pytest

from kd_ray.config.corpus import (
    Corpus,
    FolderMember,
    HashSplit,
    MixtureCorpus,
    NativeResolutionFilter,
    PathSplit,
    Reencode,
)
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import CorpusError
from kd_ray.evaluate.sheet_samples import Group, packed_group, source_group, training_group
from tests.support.corpus_files import encoded, folder, noise, png, write, write_classes


def from_source(config: Corpus, num_samples: int = 1000) -> Group:
    return source_group(config, num_samples=num_samples, report=lambda _done: None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reencode": Reencode(longest_side_px=4, format="png")},
        {"native_resolution_filter": NativeResolutionFilter(min_short_side=6), "max_bad_fraction": 1.0},
    ],
)
def test_the_source_gives_what_packing_stores(tmp_path: Path, settings: dict[str, object]) -> None:
    write_classes(tmp_path / "src", per_class=10)
    for seed in range(4):
        write(tmp_path / "src" / "a" / f"large-{seed}.png", encoded(noise(seed, height=9, width=7)))
    write(tmp_path / "src" / "a" / "copy.png", png(0))
    config = folder(tmp_path, row_group_size=100, **settings)
    looked_at = from_source(config)
    pack(config)
    packed = packed_group(open_corpus(config.packed_uri))
    assert not looked_at.is_row_group
    assert packed.is_row_group
    assert len(packed.samples) >= 3

    def known(group: Group) -> dict[int, tuple[bytes, tuple[int, int]]]:
        return {each.sample_id: (each.image, each.size_px) for each in group.samples}

    assert known(looked_at) == known(packed)


def test_what_is_packed_is_shown_once_it_is_whole(tmp_path: Path) -> None:
    write_classes(tmp_path / "src", per_class=10)
    config = folder(tmp_path)
    told: list[int] = []
    before = training_group(config, num_samples=3, report=told.append)
    assert (len(before.samples), told) == (3, [1, 2, 3])
    assert "Nothing is packed yet" in before.origin
    pack(config)
    after = training_group(config, num_samples=3, report=told.append)
    assert len(after.samples) == config.row_group_size
    assert "From the packed corpus" in after.origin
    assert after.samples[0].name.endswith((", a", ", b"))
    assert len(told) == 3


def test_the_first_images_in_the_order_of_the_listing(tmp_path: Path) -> None:
    write_classes(tmp_path / "src", per_class=3)
    config = folder(tmp_path, split=HashSplit(test_fraction=0.01))
    names = [each.name.split(", ")[1] for each in from_source(config, num_samples=4).samples]
    assert names == ["a/000.png", "a/002.png", "a/004.png", "b/001.png"]


def test_what_is_held_out_is_not_shown(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / "src" / split, per_class=2, first_seed=100 if split == "test" else 0)
    found = from_source(folder(tmp_path, split=PathSplit()))
    assert len(found.samples) == 4
    assert all("train/" in each.name for each in found.samples)


def test_bad_images_are_passed_over_and_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "src", per_class=3)
    write(tmp_path / "src" / "a" / "000-bad.png", b"no image")
    write(tmp_path / "src" / "a" / "000-empty.png", b"")
    found = from_source(folder(tmp_path))
    assert (
        "Passed over: 1 not_an_image, 1 empty." in found.origin
        or "Passed over: 1 empty, 1 not_an_image." in found.origin
    )


def test_a_mixture_gives_from_each_source_in_turn(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 100)):
        write_classes(tmp_path / name, per_class=4, first_seed=seed)
    config = MixtureCorpus(
        kind="mixture",
        packed_uri=str(tmp_path / "packed"),
        split=HashSplit(test_fraction=0.01),
        sources={name: FolderMember(kind="folder", uri=str(tmp_path / name)) for name in ("one", "two")},
    )
    names = [each.name.split(", ")[1] for each in from_source(config, num_samples=4).samples]
    assert [name.split(":")[0] for name in names] == ["one", "two", "one", "two"]


def test_names_that_are_no_text_are_shown_on_one_line(tmp_path: Path) -> None:
    write(tmp_path / "src" / "a" / "line\nbreak.png", png(1))
    write(tmp_path / "src" / "a" / "plain.png", png(2))
    found = from_source(folder(tmp_path, split=HashSplit(test_fraction=0.01)))
    assert found.samples[0].name.endswith("a/line\N{REPLACEMENT CHARACTER}break.png")


def test_nothing_to_look_at_is_told_with_the_reasons(tmp_path: Path) -> None:
    write(tmp_path / "src" / "a" / "bad.png", b"no image")
    with pytest.raises(CorpusError, match=r"src: no training image can be read; passed over: 1 not_an_image\. Correct"):
        from_source(folder(tmp_path))
