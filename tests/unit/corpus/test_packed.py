"""Reading a packed corpus: rows, members, the labels a run may use; one flipped bit is an error."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from kd_ray.config.corpus import AllLabels, LabelsPerClass, NoLabels
from kd_ray.corpus.format import sample_id_of
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import CorpusError, ShardCorrupt
from tests.support.corpus_files import folder, png, write, write_classes


@pytest.fixture
def corpus(tmp_path) -> PackedCorpus:
    write_classes(tmp_path / "src", per_class=11)
    config = folder(tmp_path)
    pack(config)
    return open_corpus(config.packed_uri)


def fresh(corpus: PackedCorpus) -> PackedCorpus:
    """The same corpus with nothing kept in memory."""
    return pickle.loads(pickle.dumps(corpus))


def shard_path(corpus: PackedCorpus, name: str) -> Path:
    """Where a shard lies."""
    (commit,) = [commit for commit in corpus.commits if commit.shard == name]
    return Path(corpus.uri, commit.object)


class TestReading:
    def test_members_follow_the_rows_of_the_shards(self, corpus):
        for split in ("train", "test"):
            rows = [corpus.read_rows(s.name, 0, len(s.rows_per_group)) for s in corpus.shards(split)]
            members = corpus.members(split)
            np.testing.assert_array_equal(np.concatenate([r.sample_ids for r in rows]), members.sample_ids)
            np.testing.assert_array_equal(np.concatenate([r.labels for r in rows]), members.labels)
            images = [image for r in rows for image in r.images]
            assert [hashlib.sha256(image).digest() for image in images] == [row.tobytes() for row in members.sha256]
            assert corpus.num_samples(split) == len(images) == len(members.sample_ids)

    def test_row_groups_are_read_alone(self, corpus):
        shard = corpus.shards("train")[0]
        whole, second = corpus.read_rows(shard.name, 0, 2), corpus.read_rows(shard.name, 1, 2)
        assert second.images == whole.images[2:]
        assert second.sample_ids.dtype == np.uint64
        assert second.labels.dtype == np.int32
        assert second.sizes_px.tolist() == [[6, 5]] * 2

    def test_columns_that_are_not_asked_for_stay_empty(self, corpus):
        rows = corpus.read_rows("train-00000", 0, 1, columns=["label"])
        assert len(rows.sample_ids) == len(rows.labels) == 2
        assert rows.images == []
        assert rows.sizes_px.shape == (0, 2)

    def test_pickling_keeps_the_shards_that_were_seen(self, corpus, tmp_path):
        copy = fresh(corpus)
        write_classes(tmp_path / "src", per_class=4, first_seed=100)
        pack(folder(tmp_path))
        assert fresh(copy).num_samples("train") == corpus.num_samples("train")
        assert open_corpus(corpus.uri).num_samples("train") > corpus.num_samples("train")
        assert copy.read_rows("train-00000", 0, 1).images == corpus.read_rows("train-00000", 0, 1).images

    def test_a_split_without_samples(self, tmp_path):
        write(tmp_path / "src" / "a" / "1.png", png(1))
        pack(folder(tmp_path))
        corpus = open_corpus(str(tmp_path / "packed"))
        empty = "test" if corpus.num_samples("train") else "train"
        assert corpus.members(empty).sha256.shape == (0, 32)

    def test_nothing_packed(self, tmp_path):
        with pytest.raises(CorpusError, match="no packed corpus there"):
            open_corpus(str(tmp_path))

    def test_an_unknown_shard(self, corpus):
        with pytest.raises(CorpusError, match="no shard 'train-99999'"):
            corpus.read_rows("train-99999", 0, 1)


class TestDamage:
    def test_any_flipped_bit_is_noticed_or_changes_nothing(self, corpus, tmp_path):
        path = shard_path(corpus, "train-00000")
        data = path.read_bytes()
        good = corpus.read_rows("train-00000", 0, 2)
        num_noticed = 0
        positions = range(0, len(data), 5)
        for position in positions:
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                rows = fresh(corpus).read_rows("train-00000", 0, 2)
            except ShardCorrupt:
                num_noticed += 1
                continue
            # Columns not read, the leading magic and page statistics may differ without harm.
            assert rows.images == good.images
            np.testing.assert_array_equal(rows.sample_ids, good.sample_ids)
            np.testing.assert_array_equal(rows.labels, good.labels)
            np.testing.assert_array_equal(rows.sizes_px, good.sizes_px)
        assert num_noticed > 0.7 * len(positions)

    def test_a_flipped_pixel_names_the_shard(self, corpus, tmp_path):
        path = shard_path(corpus, "train-00000")
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 20] ^= 1
        path.write_bytes(data)
        with pytest.raises(ShardCorrupt, match=r"packed/shards/train-00000-\w+\.parquet: damaged: .*CRC.* Restore it"):
            corpus.read_rows("train-00000", 0, 2)

    def test_a_missing_or_shorter_shard(self, corpus, tmp_path):
        path = shard_path(corpus, "train-00000")
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ShardCorrupt, match=r"train-00000-\w+\.parquet: damaged"):
            corpus.members("train")
        path.unlink()
        with pytest.raises(ShardCorrupt, match=r"train-00000-\w+\.parquet: damaged: the file is missing"):
            fresh(corpus).read_rows("train-00000", 0, 1)

    def test_a_shard_in_the_place_of_another(self, corpus, tmp_path):
        shard_path(corpus, "train-00000").write_bytes(shard_path(corpus, "train-00001").read_bytes())
        with pytest.raises(ShardCorrupt, match="damaged"):
            corpus.read_rows("train-00000", 0, 1)


class TestLabels:
    def test_all_and_none(self, corpus):
        assert set(corpus.labelled_ids("train", AllLabels())) == set(corpus.members("train").sample_ids)
        assert len(corpus.labelled_ids("train", NoLabels(kind="none"))) == 0

    def test_the_lowest_hashes_of_each_class(self, corpus):
        members = corpus.members("train")
        expected = []
        for label in (0, 1):
            of_class = sorted(row.tobytes() for row in members.sha256[members.labels == label])
            expected += [sample_id_of(sha256) for sha256 in of_class[:3]]
        chosen = corpus.labelled_ids("train", LabelsPerClass(kind="per_class", count=3))
        assert chosen.tolist() == sorted(expected)

    def test_packing_anew_changes_nothing(self, corpus, tmp_path):
        again = folder(tmp_path, packed="again", seed=5, row_group_size=3)
        pack(again)
        labels = LabelsPerClass(kind="per_class", count=2)
        chosen = open_corpus(again.packed_uri).labelled_ids("train", labels)
        np.testing.assert_array_equal(chosen, corpus.labelled_ids("train", labels))

    def test_too_few_in_a_class(self, corpus):
        with pytest.raises(
            CorpusError, match=r"class 'a' has \d+ labelled samples in train, labels\.count asks for 12"
        ):
            corpus.labelled_ids("train", LabelsPerClass(kind="per_class", count=12))

    def test_unlabelled_corpus(self, tmp_path):
        for i in range(4):
            write(tmp_path / "src" / f"{i}.png", png(i))
        config = folder(tmp_path)
        pack(config)
        corpus = open_corpus(config.packed_uri)
        assert len(corpus.labelled_ids("train", AllLabels())) == 0
        with pytest.raises(CorpusError, match="has no labels"):
            corpus.labelled_ids("train", LabelsPerClass(kind="per_class", count=1))
