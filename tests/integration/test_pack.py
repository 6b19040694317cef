"""Packing: what is kept, in which order, and what a crash, an append or a changed source leads to."""

import errno
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray.config.corpus import DigitsCorpus, HashSplit, ParquetCorpus, PathSplit
from kd_ray.corpus.format import SHARD_SCHEMA
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import PackResult, find_packed, list_sources, pack, pack_listed
from kd_ray.corpus.packing.scan import split_of
from kd_ray.corpus.packing.write import WriteTask
from kd_ray.corpus.sources.local_files import LocalFiles
from kd_ray.errors import CorpusError, StorageError
from kd_ray.storage import LocalStorage
from tests.support.corpus_files import encoded, folder, noise, png, tree, write, write_classes
from tests.support.shared_data import shared_data

PATHS = PathSplit(train="train", test="test")
NOTES = ("scans/", "plans/")


class Crash(Exception):
    """The machine goes away."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: int, *, after: bool = False) -> None:
    """Local storage works for `call` writes, then the machine goes away before the next or, `after`, right after it."""
    left = [call]

    def failing(name: str):
        real = getattr(LocalStorage, name)

        def counted(self, *arguments):
            left[0] -= 1
            if left[0] >= 0:
                return real(self, *arguments)
            if after:
                real(self, *arguments)
            raise Crash

        return counted

    for name in ("write", "write_from", "create"):
        monkeypatch.setattr(LocalStorage, name, failing(name))


def refuse(self, prefix):
    raise StorageError(f"{self.path(prefix)}: cannot remove: Permission denied.")


def quarantined(config) -> dict[str, str]:
    """The last table: location to reason."""
    tables = sorted(Path(config.packed_uri, "quarantine").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return {row["source"]: row["reason"] for row in pq.read_table(tables[-1]).to_pylist()}


def counted(result: PackResult) -> tuple[int, int, int]:
    """Samples, dropped copies, rows in quarantine."""
    return result.num_packed, result.num_duplicates, sum(result.left_out.values())


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
        assert (result.num_packed, result.num_new, result.left_out, result.already_packed) == (22, 22, {}, False)
        assert result.bytes == sum(len(data) for name, data in tree(tmp_path / "packed").items() if "shards" in name)
        seen = {}
        for split in ("train", "test"):
            for shard in corpus.shards(split):
                (path,) = (tmp_path / "packed" / "shards").glob(f"{shard.name}-*.parquet")
                table = pq.read_table(io.BytesIO(path.read_bytes()))
                assert table.schema.equals(SHARD_SCHEMA)
                assert len(shard.rows_per_group) <= 2
                for row in table.to_pylist():
                    assert split_of(row["sha256"], config.split) == split
                    assert row["sample_id"] == int.from_bytes(sha256(row["image"])[:8], "big")
                    assert (row["sha256"], row["height"], row["width"]) == (sha256(row["image"]), 6, 5)
                    seen[row["location"]] = (row["image"], row["label"])
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
        assert counted(result) == (1797, 0, 0)
        assert open_corpus(config.packed_uri).num_samples("test") == 359

    def test_cifar10_test_split(self, tmp_path):
        config = ParquetCorpus(
            kind="parquet",
            uri=str(shared_data("cifar10")),
            packed_uri=str(tmp_path / "packed"),
            classes_uri=str(shared_data("cifar10/classes.json")),
            split=PathSplit(train=None, test="test.parquet"),
        )
        result = pack(config)
        assert counted(result) == (4000, 0, 0)
        corpus = open_corpus(config.packed_uri)
        assert corpus.classes[0] == "airplane"
        assert np.bincount(corpus.members("test").labels).tolist() == [400] * 10


class TestDuplicates:
    def test_copies_are_dropped_and_counted(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        write(tmp_path / "src" / "a" / "zz-copy.png", png(0))
        result = pack(folder(tmp_path))
        assert counted(result) == (12, 1, 0)

    def test_conflicting_labels_quarantine_all_copies(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        write(tmp_path / "src" / "b" / "copy.png", png(0))
        config = folder(tmp_path, max_bad_fraction=0.5)
        result = pack(config)
        assert counted(result) == (11, 0, 2)
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
        config = folder(tmp_path, max_bad_fraction=0.5)
        result = pack(config)
        assert counted(result) == (12, 0, 3)
        assert quarantined(config) == {
            "a/cut.jpg": "truncated",
            "a/nothing.jpg": "empty",
            "b/text.jpg": "not_an_image",
        }

    def test_too_many_are_an_error_that_names_counts_and_table(self, tmp_path):
        write_classes(tmp_path / "src", per_class=6)
        write(tmp_path / "src" / "a" / "text.jpg", b"text")
        write(tmp_path / "src" / "a" / "empty.jpg", b"")
        config = folder(tmp_path)
        with pytest.raises(CorpusError, match=r"quarantine/.*\(1 empty, 1 not_an_image\): 2 of 14 inputs .*at most 1"):
            pack(config)
        assert len(quarantined(config)) == 2
        assert not (tmp_path / "packed" / "corpus.json").exists()
        pack(folder(tmp_path, max_bad_fraction=0.5))
        with pytest.raises(CorpusError, match="2 of 14"):
            pack(config)

    def test_bytes_that_never_claimed_to_be_an_image_do_not_outweigh_bad_ones(self, tmp_path):
        write_classes(tmp_path / "src", per_class=10)
        write(tmp_path / "src" / "a" / "bad.png", b"\x89PNG" + bytes(20_000))
        write(tmp_path / "src" / "a" / "film.mp4", bytes(10_000_000))
        with pytest.raises(CorpusError, match=r"1 of 21 inputs cannot be used \(20,004 of 2\d,\d{3} bytes\)"):
            pack(folder(tmp_path, max_bad_fraction=0.1))

    def test_a_source_that_cannot_be_read_is_named_and_not_the_target(self, tmp_path, monkeypatch):
        write_classes(tmp_path / "src", per_class=2)

        def read(self, location):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(LocalFiles, "read", read)
        with pytest.raises(StorageError, match=f"^{tmp_path}/src/a/000.png: cannot read: .*Too many open files"):
            pack(folder(tmp_path))

    def test_nothing_usable(self, tmp_path):
        write(tmp_path / "src" / "a" / "text.jpg", b"text")
        with pytest.raises(CorpusError, match="none of the 1 inputs can be used: 1 not_an_image"):
            pack(folder(tmp_path, max_bad_fraction=1.0))


class TestRestart:
    @pytest.mark.parametrize(("after", "label_map"), [(False, {}), (True, {}), (True, {"a": "b", "b": "a"})])
    def test_a_crash_at_any_write_continues_to_the_same_bytes(self, tmp_path, after, label_map):
        write_classes(tmp_path / "src", per_class=8)
        pack(folder(tmp_path, packed="whole", label_map=label_map))
        num_crashes = 0
        while True:
            config = folder(tmp_path, packed=f"crash-{num_crashes}", label_map=label_map)
            with pytest.MonkeyPatch.context() as machine:
                crash_at(machine, num_crashes, after=after)
                try:
                    pack(config)
                    break
                except Crash:
                    pass
            pack(config)
            # a crash after the last write leaves only the notes of the scan behind
            kept = {name: data for name, data in tree(Path(config.packed_uri)).items() if name[:6] not in NOTES}
            assert kept == tree(tmp_path / "whole")
            num_crashes += 1
        assert num_crashes > 3 * len(open_corpus(config.packed_uri).commits)

    def test_a_corpus_whose_first_packing_crashed_cannot_be_read(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        with pytest.MonkeyPatch.context() as machine:
            crash_at(machine, 14)
            with pytest.raises(Crash):
                pack(config)
        with pytest.raises(CorpusError, match="first packing has not come to its end"):
            open_corpus(config.packed_uri)

    def test_a_shard_file_without_commit_is_rewritten(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        pack(folder(tmp_path, packed="whole"))
        for name in tree(tmp_path / "whole" / "shards"):
            write(tmp_path / "packed" / "shards" / name, b"left over")
        pack(folder(tmp_path))
        assert tree(tmp_path / "packed") == tree(tmp_path / "whole")

    def test_a_scan_that_was_killed_is_not_repeated(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        with pytest.MonkeyPatch.context() as machine:
            crash_at(machine, 1)  # the only part of the scan has been written
            with pytest.raises(Crash):
                pack(config)
        for path in (tmp_path / "src").rglob("*.png"):
            stamp = path.stat()
            path.write_bytes(png(999)[: stamp.st_size].ljust(stamp.st_size))  # another content, unseen by a listing
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        with pytest.raises(CorpusError, match="changed while it was being packed"):
            pack(config)

    def test_the_notes_of_one_that_was_killed_at_its_very_end_go(self, tmp_path):
        write_classes(tmp_path / "src", per_class=10)
        config = folder(tmp_path)

        def crash(self, prefix):
            raise Crash

        with pytest.MonkeyPatch.context() as machine:
            machine.setattr(LocalStorage, "remove", crash)
            with pytest.raises(Crash):
                pack(config)
        packed = Path(config.packed_uri)
        assert any(name.startswith(NOTES) for name in tree(packed))
        assert find_packed(config) is not None  # looks, and changes nothing
        assert any(name.startswith(NOTES) for name in tree(packed))
        with pytest.MonkeyPatch.context() as machine:
            machine.setattr(LocalStorage, "remove", refuse)
            assert pack(config).already_packed  # of one who may only read
        assert pack(config).already_packed
        assert not any(name.startswith(NOTES) for name in tree(packed))

    def test_a_finished_packing_costs_one_look_for_notes(self, tmp_path, monkeypatch):
        write_classes(tmp_path / "src", per_class=2)
        pack(folder(tmp_path))
        monkeypatch.setattr(LocalStorage, "remove", refuse)
        looked = []
        folders = LocalStorage.folders
        monkeypatch.setattr(
            LocalStorage, "folders", lambda self, prefix: looked.append(prefix) or folders(self, prefix)
        )
        assert pack(folder(tmp_path)).already_packed
        assert looked == ["plans"]

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


class TestSeveralPackings:
    """Whatever is killed, changed and started again: every image once, and nothing else."""

    def _check(self, config, *, num_images: int) -> None:
        assert pack(config).num_packed == num_images
        corpus = open_corpus(config.packed_uri)
        ids = np.concatenate([corpus.members(split).sample_ids for split in ("train", "test")])
        assert len(ids) == len(set(ids.tolist())) == num_images

    def _killed(self, config, calls: int) -> None:
        with pytest.MonkeyPatch.context() as machine:
            crash_at(machine, calls)
            with pytest.raises(Crash):
                pack(config)

    @pytest.mark.parametrize("first", [3, 7, 8, 10, 12])
    @pytest.mark.parametrize("second", [6, 10, 13, 15, 18])
    def test_killed_then_grown_and_killed_then_as_before(self, tmp_path, first, second):
        write_classes(tmp_path / "src", per_class=8)
        write_classes(tmp_path / "more", per_class=4, first_seed=100)
        config = folder(tmp_path)
        self._killed(config, first)
        for path in list((tmp_path / "more").rglob("*.png")):
            os.rename(path, tmp_path / "src" / path.relative_to(tmp_path / "more"))
        self._killed(config, second)
        for path in list((tmp_path / "src").rglob("1??.png")):
            os.rename(path, tmp_path / "more" / path.relative_to(tmp_path / "src"))
        self._check(config, num_images=16)

    def test_two_at_once_of_different_sources_pack_nothing_twice(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        write_classes(tmp_path / "src2", per_class=8)
        write_classes(tmp_path / "src2", per_class=3, first_seed=100)
        small = folder(tmp_path)
        large = small.model_copy(update={"uri": str(tmp_path / "src2")})
        listed = list_sources(small)

        def interrupted(work, tasks):
            for number, task in enumerate(tasks):
                if isinstance(task, WriteTask) and number == 1:
                    pack(large)
                yield work(task)

        with pytest.raises(CorpusError, match=r"same command again|same time"):
            pack_listed(listed, small, mapper=interrupted, report=None)
        self._check(large, num_images=22)
        self._check(small, num_images=22)

    def test_a_packing_is_refused_then_mended_and_looks_again(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        (tmp_path / "classes.json").write_text('["a"]')
        table = {"image": [png(i) for i in range(16)], "label": [i % 2 for i in range(16)]}
        pq.write_table(pa.table(table), tmp_path / "rows.parquet")
        config = ParquetCorpus(
            kind="parquet",
            uri=str(tmp_path / "rows.parquet"),
            packed_uri=str(tmp_path / "packed"),
            classes_uri=str(tmp_path / "classes.json"),
        )
        with pytest.raises(CorpusError, match="8 bad_label"):
            pack(config)
        (tmp_path / "classes.json").write_text('["a", "b"]')
        assert pack(config).num_packed == 16

    def test_a_source_that_changed_while_it_was_packed_is_scanned_again(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path)
        self._killed(config, 1)  # the scan is on storage
        path = tmp_path / "src" / "a" / "000.png"
        stamp = path.stat()
        path.write_bytes(png(999).ljust(stamp.st_size)[: stamp.st_size])
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        with pytest.raises(CorpusError, match="changed while it was being packed"):
            pack(config)
        result = pack(config.model_copy(update={"max_bad_fraction": 0.5}))
        assert result.num_packed + sum(result.left_out.values()) == 16

    def test_equal_images_under_other_labels_are_another_annotated_corpus(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        for name, other in (("a", "b"), ("b", "a")):
            for path in (tmp_path / "src" / name).iterdir():
                write(tmp_path / "swapped" / other / path.name, path.read_bytes())
        pack(folder(tmp_path, packed="one"))
        pack(folder(tmp_path, packed="two").model_copy(update={"uri": str(tmp_path / "swapped")}))
        one, two = (open_corpus(str(tmp_path / name)) for name in ("one", "two"))
        assert one.corpus_id == two.corpus_id
        assert one.annotated_id != two.annotated_id


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
        assert find_packed(config) is not None
        added = {sample for split in ("train", "test") for sample in hashes(config, split)}
        assert added == {sha256(png(i)) for i in [*range(16), *range(100, 108)]}

    def test_a_crash_while_appending_continues_to_the_same_bytes(self, tmp_path):
        write_classes(tmp_path / "src", per_class=5)
        configs = {name: folder(tmp_path, packed=name) for name in ("whole", "crash")}
        for config in configs.values():
            pack(config)
        write_classes(tmp_path / "src", per_class=5, first_seed=100)
        pack(configs["whole"])
        with pytest.MonkeyPatch.context() as machine:
            crash_at(machine, 8)
            with pytest.raises(Crash):
                pack(configs["crash"])
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

    def test_a_new_conflicting_copy_goes_to_quarantine_and_the_packed_sample_stays(self, tmp_path):
        write_classes(tmp_path / "src", per_class=8)
        config = folder(tmp_path, max_bad_fraction=0.5)
        pack(config)
        write(tmp_path / "src" / "b" / "copy.png", png(0))
        result = pack(config)
        assert (result.num_packed, result.left_out) == (16, {"conflicting_labels": 2})
        packed = [row for split in ("train", "test") for row in hashes(config, split)]
        assert packed.count(sha256(png(0))) == 1

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

    def test_a_new_class_goes_to_the_end_and_a_missing_one_stays(self, tmp_path):
        write_classes(tmp_path / "src", per_class=4, classes="bc")
        config = folder(tmp_path)
        first = pack(config)
        for path in (tmp_path / "src" / "b").iterdir():
            path.unlink()
        write(tmp_path / "src" / "a" / "1.png", png(99))
        assert pack(config).corpus_id == first.corpus_id
        corpus = open_corpus(config.packed_uri)
        assert corpus.classes == ("b", "c", "a")
        members = [corpus.members(split) for split in ("train", "test")]
        assert sorted(np.concatenate([each.labels for each in members]).tolist()) == [0] * 4 + [1] * 4 + [2]

    def test_declared_classes_in_another_order_are_refused(self, tmp_path):
        table = {"image": [png(i) for i in range(8)], "label": [i % 2 for i in range(8)]}
        pq.write_table(pa.table(table), tmp_path / "rows.parquet")
        (tmp_path / "classes.json").write_text('["cat", "dog"]')
        config = ParquetCorpus(
            kind="parquet",
            uri=str(tmp_path / "rows.parquet"),
            packed_uri=str(tmp_path / "packed"),
            classes_uri=str(tmp_path / "classes.json"),
        )
        pack(config)
        (tmp_path / "classes.json").write_text('["dog", "cat"]')
        with pytest.raises(CorpusError, match=r"packed with the classes \['cat', 'dog'\].*declares \['dog', 'cat'\]"):
            pack(config)
