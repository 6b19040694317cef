"""Packing: what is kept, in which order, and what a crash, an append or a changed source leads to."""

import hashlib
import io
import os
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus_files import encoded, folder, noise, png, shared, tree, write, write_classes

from kd_ray.config.corpus import DigitsCorpus, HashSplit, ParquetCorpus, PathSplit
from kd_ray.corpus.format import SHARD_SCHEMA
from kd_ray.corpus.pack import pack, pack_source
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.plan import split_of
from kd_ray.corpus.quarantine import read_quarantine
from kd_ray.corpus.sources import listing_digest, open_source
from kd_ray.errors import CorpusError
from kd_ray.storage import LocalStorage, open_storage

PATHS = PathSplit(train="train", test="test")


class Crash(Exception):
    """The machine goes away."""


@dataclass(frozen=True)
class CrashingStorage(LocalStorage):
    """Local storage that works for `calls_left[0]` writes, then crashes before the next or, `torn`, after it."""

    calls_left: list[int]
    after: bool = False

    def write(self, name: str, data: bytes) -> None:
        self._count(lambda: LocalStorage.write(self, name, data))

    def create(self, name: str, data: bytes) -> bool:
        return self._count(lambda: LocalStorage.create(self, name, data))

    def _count(self, action):
        self.calls_left[0] -= 1
        if self.calls_left[0] < 0:
            if self.after:
                action()
            raise Crash
        return action()


def quarantined(config) -> dict[str, str]:
    digest = listing_digest(open_source(config), config)
    return {row.source: row.reason for row in read_quarantine(open_storage(config.packed_uri), listing_digest=digest)}


def hashes(config, split="train") -> list[bytes]:
    return [row.tobytes() for row in open_corpus(config.packed_uri).members(split).sha256]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class TestPacking:
    def test_every_sample_is_packed_with_what_it_is(self, tmp_path):
        write_classes(tmp_path / "src", per_class=11)
        config = folder(tmp_path)
        result = pack(config)
        corpus = open_corpus(config.packed_uri)
        assert (result.num_packed, result.num_new, result.num_bad, result.already_packed) == (22, 22, 0, False)
        assert result.bytes == sum(len(data) for name, data in tree(tmp_path / "packed").items() if "shards" in name)
        seen = {}
        for split in ("train", "test"):
            for shard in corpus.shards(split):
                data = (tmp_path / "packed" / "shards" / f"{shard.name}.parquet").read_bytes()
                table = pq.read_table(io.BytesIO(data))
                assert table.schema.equals(SHARD_SCHEMA)
                assert len(shard.rows_per_group) <= 2
                for row in table.to_pylist():
                    assert split_of(row["sha256"], config.split) == split
                    assert row["sample_id"] == int.from_bytes(sha256(row["image"])[:8], "big")
                    assert (row["sha256"], row["height"], row["width"]) == (sha256(row["image"]), 6, 5)
                    seen[row["source"]] = (row["image"], row["label"])
        expected = {f"{'ab'[i % 2]}/{i:03d}.png": (png(i), i % 2) for i in range(22)}
        assert seen == expected

    def test_row_groups_are_full_but_for_the_last(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path, row_group_size=3)
        pack(config)
        for split in ("train", "test"):
            groups = [rows for shard in open_corpus(config.packed_uri).shards(split) for rows in shard.rows_per_group]
            assert all(rows == 3 for rows in groups[:-1])
            assert 1 <= groups[-1] <= 3

    def test_the_same_source_gives_the_same_bytes_whatever_the_file_names(self, tmp_path):
        write_classes(tmp_path / "src", per_class=9)
        first = pack(folder(tmp_path, packed="one"))
        second = pack(folder(tmp_path, packed="two"))
        assert tree(tmp_path / "one") == tree(tmp_path / "two")
        for number, path in enumerate(sorted((tmp_path / "src" / "a").iterdir(), reverse=True)):
            os.rename(path, path.with_name(f"renamed-{number}.png"))
        third = pack(folder(tmp_path, packed="three"))
        assert first.corpus_id == second.corpus_id == third.corpus_id
        assert hashes(folder(tmp_path, packed="one")) == hashes(folder(tmp_path, packed="three"))

    def test_the_seed_decides_the_order_and_not_the_split(self, tmp_path):
        write_classes(tmp_path / "src", per_class=20)
        zero, one = folder(tmp_path, packed="zero"), folder(tmp_path, packed="one", seed=1)
        assert pack(zero).corpus_id != pack(one).corpus_id
        assert hashes(zero) != hashes(one)
        assert sorted(hashes(zero)) == sorted(hashes(one))

    def test_hash_split_takes_about_its_fraction(self):
        split = HashSplit(test_fraction=0.2)
        drawn = [split_of(sha256(bytes([i % 256, i // 256])), split) for i in range(5000)]
        # 5 standard deviations of a binomial with n = 5000, p = 0.2
        assert abs(drawn.count("test") - 1000) < 142

    def test_unlabelled_images(self, tmp_path):
        for i in range(6):
            write(tmp_path / "src" / f"{i}.png", png(i))
        config = folder(tmp_path)
        pack(config)
        corpus = open_corpus(config.packed_uri)
        assert corpus.classes == ()
        assert set(corpus.members("train").labels.tolist()) == {-1}

    def test_progress_reaches_its_total(self, tmp_path):
        write_classes(tmp_path / "src", per_class=20)
        calls = []
        pack(folder(tmp_path), report=lambda done, total: calls.append((done, total)))
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert calls[-1] == (80, 80)

    def test_digits(self, tmp_path):
        config = DigitsCorpus(kind="digits", uri=str(tmp_path / "src"), packed_uri=str(tmp_path / "packed"))
        result = pack(config)
        assert (result.num_packed, result.num_duplicates, result.num_bad) == (1797, 0, 0)
        assert open_corpus(config.packed_uri).num_samples("test") == 359

    def test_cifar10_test_split(self, tmp_path):
        config = ParquetCorpus(
            kind="parquet",
            uri=str(shared("cifar10")),
            packed_uri=str(tmp_path / "packed"),
            classes_uri=str(shared("cifar10", "classes.json")),
            split=PathSplit(train=None, test="test.parquet"),
        )
        result = pack(config)
        assert (result.num_packed, result.num_duplicates, result.num_bad) == (4000, 0, 0)
        corpus = open_corpus(config.packed_uri)
        assert corpus.classes[0] == "airplane"
        assert np.bincount(corpus.members("test").labels).tolist() == [400] * 10


class TestDuplicates:
    def test_copies_are_dropped_and_counted(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        write(tmp_path / "src" / "a" / "zz-copy.png", png(0))
        result = pack(folder(tmp_path))
        assert (result.num_packed, result.num_duplicates, result.num_bad) == (12, 1, 0)

    def test_conflicting_labels_quarantine_all_copies(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        write(tmp_path / "src" / "b" / "copy.png", png(0))
        config = folder(tmp_path, max_bad_fraction=0.5)
        result = pack(config)
        assert (result.num_packed, result.num_duplicates, result.num_bad) == (11, 0, 2)
        assert quarantined(config) == {"a/000.png": "conflicting_labels", "b/copy.png": "conflicting_labels"}

    def test_a_copy_in_test_is_taken_out_of_train(self, tmp_path):
        write_classes(tmp_path / "src" / "train", per_class=3)
        write_classes(tmp_path / "src" / "test", per_class=2, first_seed=50)
        write(tmp_path / "src" / "train" / "a" / "leak.png", png(50))
        config = folder(tmp_path, split=PATHS, max_bad_fraction=0.5)
        pack(config)
        assert quarantined(config) == {"train/a/leak.png": "duplicate_of_test"}
        assert sha256(png(50)) in hashes(config, "test")
        assert sha256(png(50)) not in hashes(config, "train")


class TestBadInput:
    def test_each_is_quarantined_with_its_reason(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        jpeg = encoded(noise(0, height=64, width=64), "JPEG")
        write(tmp_path / "src" / "a" / "cut.jpg", jpeg[: len(jpeg) // 2])
        write(tmp_path / "src" / "a" / "nothing.jpg", b"")
        write(tmp_path / "src" / "b" / "text.jpg", b"this is a text file")
        config = folder(tmp_path, max_bad_fraction=0.2)
        result = pack(config)
        assert (result.num_packed, result.num_bad) == (12, 3)
        assert quarantined(config) == {
            "a/cut.jpg": "truncated",
            "a/nothing.jpg": "empty",
            "b/text.jpg": "unreadable",
        }

    def test_too_many_are_an_error_that_names_counts_and_table(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        write(tmp_path / "src" / "a" / "text.jpg", b"text")
        write(tmp_path / "src" / "a" / "empty.jpg", b"")
        config = folder(tmp_path)
        with pytest.raises(CorpusError, match=r"quarantine/.*: 2 of 14 images .*\(1 empty, 1 unreadable\), at most 1"):
            pack(config)
        assert len(quarantined(config)) == 2
        assert not (tmp_path / "packed" / "corpus.json").exists()
        pack(folder(tmp_path, max_bad_fraction=0.5))
        with pytest.raises(CorpusError, match="2 of 14"):
            pack(config)

    def test_nothing_usable(self, tmp_path):
        write(tmp_path / "src" / "a" / "text.jpg", b"text")
        with pytest.raises(CorpusError, match="none of its 1 images can be used"):
            pack(folder(tmp_path, max_bad_fraction=1.0))


class TestRestart:
    @pytest.mark.parametrize("after", [False, True])
    def test_a_crash_at_any_write_continues_to_the_same_bytes(self, tmp_path, after):
        write_classes(tmp_path / "src", per_class=8)
        whole = folder(tmp_path, packed="whole")
        pack(whole)
        num_writes = len(tree(tmp_path / "whole"))
        assert num_writes > 8
        for num_calls in range(num_writes):
            config = folder(tmp_path, packed=f"crash-{num_calls}")
            storage = CrashingStorage(config.packed_uri, [num_calls], after)
            with pytest.raises(Crash):
                pack_source(open_source(config), config, storage=storage, report=None)
            pack(config)
            assert tree(tmp_path / f"crash-{num_calls}") == tree(tmp_path / "whole")

    def test_a_corpus_whose_first_packing_crashed_cannot_be_read(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        with pytest.raises(Crash):
            pack_source(open_source(config), config, storage=CrashingStorage(config.packed_uri, [4]), report=None)
        with pytest.raises(CorpusError, match="first packing has not come to its end"):
            open_corpus(config.packed_uri)

    def test_a_shard_file_without_commit_is_rewritten(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        write(tmp_path / "packed" / "shards" / "train-00000.parquet", b"left over")
        pack(config)
        assert len(open_corpus(config.packed_uri).read_rows("train-00000", 0, 1).images) == 2

    def test_unchanged_source_reads_no_image(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        first = pack(config)
        before = tree(tmp_path / "packed")
        read = []
        second = pack(config, report=lambda done, total: read.append(done))
        assert second.already_packed
        assert read == []
        assert (second.corpus_id, second.num_packed, second.num_new) == (first.corpus_id, 16, 0)
        assert tree(tmp_path / "packed") == before

    def test_a_source_that_changes_while_it_is_packed_is_refused(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)

        def meddle(done: int, total: int) -> None:
            if done == 16:
                for path in (tmp_path / "src" / "a").iterdir():
                    path.write_bytes(png(77))

        with pytest.raises(CorpusError, match=r"src/a/.*changed while it was being packed"):
            pack(config, report=meddle)


class TestGrowth:
    def test_new_samples_make_new_shards_and_leave_the_others(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        first = pack(config)
        before = tree(tmp_path / "packed")
        write_classes(tmp_path / "src", per_class=4, first_seed=100)
        second = pack(config)
        after = tree(tmp_path / "packed")
        assert (second.corpus_id, second.num_packed, second.num_new) == (first.corpus_id, 24, 8)
        assert {name: after[name] for name in before} == before
        added = {sample for split in ("train", "test") for sample in hashes(config, split)}
        assert added == {sha256(png(i)) for i in [*range(16), *range(100, 108)]}

    def test_a_crash_while_appending_continues_to_the_same_bytes(self, tmp_path):
        write_classes(tmp_path / "src", per_class=5)
        configs = {name: folder(tmp_path, packed=name) for name in ("whole", "crash")}
        for config in configs.values():
            pack(config)
        write_classes(tmp_path / "src", per_class=5, first_seed=100)
        pack(configs["whole"])
        crashing = CrashingStorage(configs["crash"].packed_uri, [3])
        with pytest.raises(Crash):
            pack_source(open_source(configs["crash"]), configs["crash"], storage=crashing, report=None)
        pack(configs["crash"])
        assert tree(tmp_path / "crash") == tree(tmp_path / "whole")

    def test_renamed_and_removed_files_change_no_shard(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        pack(config)
        os.rename(tmp_path / "src" / "a" / "000.png", tmp_path / "src" / "a" / "zero.png")
        os.remove(tmp_path / "src" / "a" / "002.png")
        result = pack(config)
        assert (result.num_packed, result.num_new, result.already_packed) == (16, 0, False)

    def test_a_changed_label_is_refused(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        pack(config)
        os.rename(tmp_path / "src" / "a" / "000.png", tmp_path / "src" / "b" / "000.png")
        with pytest.raises(
            CorpusError, match=r"1 packed samples .* b/000\.png has label 1, packed with label 0\..*new"
        ):
            pack(config)

    def test_a_new_conflicting_copy_of_a_packed_sample_is_refused(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path, max_bad_fraction=0.5)
        pack(config)
        write(tmp_path / "src" / "b" / "copy.png", png(0))
        with pytest.raises(CorpusError, match=r"a/000\.png has copies with conflicting labels, packed with label 0"):
            pack(config)

    def test_a_packed_training_sample_that_turns_up_in_test_is_refused(self, tmp_path):
        write_classes(tmp_path / "src" / "train", per_class=3)
        write_classes(tmp_path / "src" / "test", per_class=3, first_seed=50)
        config = folder(tmp_path, split=PATHS, max_bad_fraction=0.5)
        pack(config)
        write(tmp_path / "src" / "test" / "a" / "leak.png", png(0))
        with pytest.raises(CorpusError, match=r"test/a/leak\.png is in test, packed in train"):
            pack(config)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"row_group_size": 4}, r"corpus\.row_group_size 2, this recipe has 4"),
            ({"shard_row_groups": 3}, r"corpus\.shard_row_groups 2, this recipe has 3"),
            ({"seed": 7}, r"corpus\.seed 0, this recipe has 7"),
            ({"split": HashSplit(test_fraction=0.5)}, r"corpus\.split .*0\.25.*0\.5.*pack to a new packed_uri"),
        ],
    )
    def test_changed_settings_are_refused(self, tmp_path, change, message):
        write_classes(tmp_path / "src", per_class=4)
        pack(folder(tmp_path))
        with pytest.raises(CorpusError, match=message):
            pack(folder(tmp_path, **change))

    def test_changed_classes_are_refused(self, tmp_path):
        write_classes(tmp_path / "src", per_class=4)
        config = folder(tmp_path)
        pack(config)
        write(tmp_path / "src" / "c" / "1.png", png(99))
        with pytest.raises(CorpusError, match=r"corpus\.classes \['a', 'b'\], this recipe has \['a', 'b', 'c'\]"):
            pack(config)
