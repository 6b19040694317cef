"""A sample that is alone in its row group has no partner: its views stay unmixed, and the plan says so."""

from pathlib import Path

import pytest

from kd_ray.config.corpus import FolderCorpus, HashSplit
from kd_ray.config.load import load_recipe
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import RecipeError
from pipelines.stages.plan import unmixed
from tests.support.recipes import write
from tests.support.tiny_world import write_images


def packed(home: Path, *, row_group_size: int) -> PackedCorpus:
    config = FolderCorpus(
        kind="folder",
        uri=str(home / "source"),
        packed_uri=str(home / f"by-{row_group_size}"),
        split=HashSplit(test_fraction=0.2),
        row_group_size=row_group_size,
    )
    pack(config)
    return open_corpus(config.packed_uri)


def test_the_plan_counts_them(tmp_path: Path) -> None:
    write_images(tmp_path / "source", per_class=4)
    whole = packed(tmp_path, row_group_size=64)
    num_train = whole.num_samples("train")
    cut = packed(tmp_path, row_group_size=num_train - 1)
    assert [shard.rows_per_group for shard in cut.shards("train")] == [(num_train - 1, 1)]
    plain = load_recipe(write(tmp_path))
    mixing = load_recipe(write(tmp_path), ["views.policy={preset: lightly}"])
    assert unmixed(plain, cut) == []
    assert unmixed(mixing, whole) == []
    (warning,) = unmixed(mixing, cut)
    assert warning.startswith(f"WARNING: views.policy.mix: 1 of {num_train} training samples are alone in the last row")


def test_a_mix_where_all_are_alone_is_refused(tmp_path: Path) -> None:
    """Nothing would be mixed: not what the recipe says."""
    write_images(tmp_path / "source", per_class=4)
    lone = packed(tmp_path, row_group_size=1)
    mixing = load_recipe(write(tmp_path), ["views.policy={preset: lightly}"])
    with pytest.raises(RecipeError, match=r"views\.policy\.mix: .*each of the row groups .* holds one sample \(\d+ in"):
        unmixed(mixing, lone)
    assert unmixed(load_recipe(write(tmp_path)), lone) == []
