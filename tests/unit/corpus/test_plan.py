"""What a packing keeps, and in which order: decided by content, whatever the order of the listing."""

import hashlib
import tempfile
from collections.abc import Sequence

import numpy as np
import pytest

from kd_ray.corpus.format import Commit, Identity, Settings
from kd_ray.corpus.packed import Members
from kd_ray.corpus.packing import plan
from kd_ray.corpus.packing.findings import ACCEPTED, REASONS, Finding, Findings, gather, write_part
from kd_ray.corpus.packing.known import find_known
from kd_ray.corpus.packing.plan import (
    Verdict,
    annotations_of,
    class_list,
    group_for_writing,
    judge,
    label_indices,
    plan_shards,
)
from kd_ray.corpus.packing.refusals import (
    refuse_bad,
    refuse_changed_samples,
    refuse_changed_settings,
    refuse_reordered_classes,
)
from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError
from kd_ray.storage import LocalStorage

SETTINGS = Settings(
    format_version=2,
    row_group_size=2,
    shard_row_groups=2,
    seed=0,
    split={},
    native_resolution_filter={},
    reencode=None,
    label_map={},
)


def _image(
    content: str,
    *,
    location: str | None = None,
    split: SplitName = "train",
    label: str | None = "a",
    annotations: int = 0,
    has_caption: bool = False,
    run: int = 0,
    size_bytes: int = 10,
    sha256: bytes | None = None,
) -> Finding:
    place = location or f"{content}.png"
    return Finding(
        location=place,
        locator=place,
        run=run,
        split=split,
        reason=None,
        label=label,
        annotations=annotations,
        has_caption=has_caption,
        sha256=sha256 or hashlib.sha256(content.encode()).digest(),
        crc32c=0,
        size_bytes=size_bytes,
        size_px=(1, 1),
    )


def _found(*parts: Sequence[Finding]) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        sizes = [write_part(storage, str(index), rows, index=index) for index, rows in enumerate(parts)]
        data = [(size.index, storage.read(str(size.index))) for size in sizes]
    return gather(data, sizes)


def _judged(*images: Finding) -> tuple[Findings, Verdict]:
    found = _found(images)
    return found, judge(found, label_indices(found.label_names, sorted(found.label_names), {}))


def _reasons(verdict: Verdict) -> list[str | None]:
    return [None if index == ACCEPTED else REASONS[index] for index in verdict.reason]


class TestClasses:
    def test_declared_names_keep_their_order_and_others_follow_sorted(self) -> None:
        assert class_list([["b", "a"], ["c"]], ["z", "a", "d"], {}, where="") == ("b", "a", "c", "d", "z")

    def test_numbers_alone_are_all_numbers_up_to_the_highest(self) -> None:
        assert class_list([()], ["11", "2"], {}, where="") == tuple(map(str, range(12)))

    def test_numbers_stay_what_they_are_when_the_corpus_grows(self) -> None:
        assert class_list([("0", "1", "2")], ["5"], {}, where="") == ("0", "1", "2", "3", "4", "5")

    def test_names_with_leading_zeros_are_names(self) -> None:
        assert class_list([()], ["001", "000"], {}, where="") == ("000", "001")
        assert class_list([()], ["\u0661", "0"], {}, where="") == ("0", "\u0661")

    def test_one_absurd_number_is_a_class_of_its_own(self) -> None:
        assert class_list([()], ["0", "1", "30000000"], {}, where="") == ("0", "1", "30000000")

    def test_numbers_keep_their_order_under_a_map(self) -> None:
        assert class_list([()], ["10", "2", "3"], {"3": None}, where="") == ("2", "10")

    def test_no_labels_are_no_classes(self) -> None:
        assert class_list([()], [], {}, where="") == ()

    def test_a_map_merges_renames_and_takes_away(self) -> None:
        label_map = {"cat": "animal", "dog": "animal", "junk": None}
        classes = class_list([()], ["car", "cat", "dog", "junk"], label_map, where="")
        assert classes == ("car", "animal")
        assert label_indices(["junk", "dog", "car"], classes, label_map).tolist() == [-1, 1, 0]

    @pytest.mark.parametrize(
        ("declared", "found", "label_map"),
        [
            ((), ["a", "b"], {"a": "b", "b": "a"}),
            ((), ["a", "b", "c"], {"a": "b", "b": "c"}),
            ((), ["a", "b", "c"], {"a": "b", "b": None}),
            (("a", "b", "c"), [], {"a": "c"}),
            (("b", "a"), ["z"], {}),
            ((), ["1", "3"], {}),
            ((), ["10", "2"], {"2": None}),
        ],
    )
    def test_packed_classes_keep_their_numbers(
        self, declared: tuple[str, ...], found: list[str], label_map: dict[str, str | None]
    ) -> None:
        first = class_list([declared], found, label_map, where="")
        refuse_reordered_classes(first, [declared], label_map, where="")
        assert class_list([declared], found, label_map, before=first, where="") == first
        assert class_list([()], [], label_map, before=first, where="") == first
        grown = class_list([declared], [*found, "new", "0"], label_map, before=first, where="")
        assert grown[: len(first)] == first
        assert {"new", "0"} <= set(grown)

    def test_a_declared_order_that_gives_packed_classes_other_numbers_is_refused(self) -> None:
        with pytest.raises(CorpusError, match=r"was packed with the classes .*Restore the order"):
            refuse_reordered_classes(["cat", "dog"], [("dog", "cat")], {}, where="here")

    def test_a_map_of_a_class_that_is_not_there_is_refused_with_the_likely_one(self) -> None:
        with pytest.raises(CorpusError, match=r"'truk'.*Did you mean 'truck'"):
            class_list([()], ["car", "truck"], {"truk": "car"}, where="")


class TestCopies:
    def test_one_of_equal_images_stays_and_counts_the_others(self) -> None:
        _, verdict = _judged(_image("x"), _image("y"), _image("x", location="b.png"))
        assert verdict.kept.tolist() == [True, True, False]
        assert verdict.copies.tolist() == [2, 1, 1]
        assert verdict.num_duplicates == 1
        assert _reasons(verdict) == [None, None, None]

    def test_unequal_labels_leave_none(self) -> None:
        _, verdict = _judged(_image("x"), _image("x", label="b"), _image("y"))
        assert verdict.kept.tolist() == [False, False, True]
        assert _reasons(verdict) == ["conflicting_labels", "conflicting_labels", None]

    def test_unequal_masks_or_boxes_leave_none(self) -> None:
        _, verdict = _judged(_image("x", annotations=3), _image("x", annotations=5))
        assert _reasons(verdict) == ["conflicting_labels"] * 2

    def test_a_missing_label_takes_that_of_its_copy(self) -> None:
        _, verdict = _judged(_image("x", label=None), _image("x", label="a"))
        assert verdict.kept.tolist() == [True, False]
        assert verdict.label[0] == 0

    def test_a_copy_with_a_caption_goes_before_one_without(self) -> None:
        _, verdict = _judged(_image("x"), _image("x", has_caption=True), _image("x", has_caption=True))
        assert verdict.kept.tolist() == [False, True, False]
        _, verdict = _judged(_image("x", has_caption=True), _image("x", annotations=5))
        assert verdict.kept.tolist() == [False, True]

    def test_the_copy_with_annotations_stays(self) -> None:
        _, verdict = _judged(_image("x"), _image("x", annotations=5))
        assert verdict.kept.tolist() == [False, True]

    @pytest.mark.parametrize("held_out", ["val", "test"])
    def test_a_held_out_copy_stays_and_the_training_one_is_named(self, held_out: SplitName) -> None:
        _, verdict = _judged(_image("x"), _image("x", location="b.png", split=held_out))
        assert verdict.kept.tolist() == [False, True]
        assert _reasons(verdict) == ["duplicate_of_test", None]
        assert not verdict.bad().any()

    def test_two_images_of_one_id_are_refused_by_name(self) -> None:
        first = bytes(8) + b"1" * 24
        second = bytes(8) + b"2" * 24
        with pytest.raises(CorpusError, match=r"x\.png and y\.png"):
            _judged(_image("x", sha256=first), _image("y", sha256=second))


def _shards(found: Findings, verdict: Verdict, **changes: object) -> list[plan.PlannedShard]:
    arguments: dict[str, object] = {
        "settings": SETTINGS,
        "is_packed": np.zeros(len(found), np.bool_),
        "next_index": {},
        "is_sequential": [False] * 4,
    }
    return plan_shards(found, verdict, **{**arguments, **changes})  # type: ignore[arg-type]


def _names(shards: Sequence[plan.PlannedShard], found: Findings) -> list[list[str]]:
    return [[found.where(row) for row in shard.rows.tolist()] for shard in shards]


class TestOrder:
    def test_shards_are_full_but_for_the_last_and_hold_every_sample_once(self) -> None:
        found, verdict = _judged(*(_image(str(i)) for i in range(11)))
        shards = _shards(found, verdict)
        assert [len(shard.rows) for shard in shards] == [4, 4, 3]
        assert [shard.name for shard in shards] == ["train-00000", "train-00001", "train-00002"]
        assert sorted(row for shard in shards for row in shard.rows.tolist()) == list(range(11))

    def test_shards_of_large_images_have_fewer_row_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "CHUNK_BYTES", 50)  # two row groups of two samples of ten bytes, and not three
        wide = Settings(
            **{name: getattr(SETTINGS, name) for name in Settings.__dataclass_fields__} | {"shard_row_groups": 9}
        )
        found, verdict = _judged(*(_image(str(i)) for i in range(11)))
        assert [len(shard.rows) for shard in _shards(found, verdict, settings=wide)] == [4, 4, 3]

    def test_one_row_group_larger_than_all_is_a_shard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "CHUNK_BYTES", 5)
        found, verdict = _judged(*(_image(str(i)) for i in range(5)))
        assert [len(shard.rows) for shard in _shards(found, verdict)] == [2, 2, 1]

    def test_the_order_depends_on_content_and_seed_alone(self) -> None:
        images = [_image(str(i)) for i in range(20)]
        forth, back = _judged(*images), _judged(*reversed(images))
        assert _names(_shards(*forth), forth[0]) == _names(_shards(*back), back[0])
        other = Settings(**{name: getattr(SETTINGS, name) for name in Settings.__dataclass_fields__} | {"seed": 1})
        assert _names(_shards(*forth), forth[0]) != _names(_shards(*forth, settings=other), forth[0])

    def test_splits_and_sources_have_shards_of_their_own(self) -> None:
        found = _found([_image("a"), _image("b", split="test")], [_image("c"), _image("d", split="val")])
        shards = _shards(found, judge(found, np.array([0], np.int32)))
        assert [(shard.name, shard.source) for shard in shards] == [
            ("train-00000", 0),
            ("test-00000", 0),
            ("train-00001", 1),
            ("val-00000", 1),
        ]

    def test_what_is_packed_already_is_not_planned_again_and_numbers_go_on(self) -> None:
        found, verdict = _judged(*(_image(str(i)) for i in range(6)))
        is_packed = np.isin(np.arange(6), [1, 3])
        shards = _shards(found, verdict, is_packed=is_packed, next_index={"train": 5})
        assert shards[0].name == "train-00005"
        assert sorted(row for shard in shards for row in shard.rows.tolist()) == [0, 2, 4, 5]

    def test_a_sequential_source_keeps_runs_together_in_chunks_of_memory_and_mixes_inside(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan, "CHUNK_BYTES", 80)  # two runs of four samples of ten bytes
        found, verdict = _judged(*(_image(str(i), run=i // 4) for i in range(32)))
        shards = _shards(found, verdict, is_sequential=[True])
        runs = [{row // 4 for row in shard.rows.tolist()} for shard in shards]
        chunks = [first | second for first, second in zip(runs[::2], runs[1::2], strict=True)]
        assert [len(chunk) for chunk in chunks] == [2, 2, 2, 2]
        assert set.union(*chunks) == set(range(8))
        assert any(len(each) == 2 for each in runs), "samples of a chunk's runs are mixed"
        assert [min(chunk) for chunk in chunks] != sorted(min(chunk) for chunk in chunks), "runs are permuted"
        groups = group_for_writing(shards, found, is_sequential=[True])
        assert [len(group) for group in groups] == [2, 2, 2, 2]

    def test_a_small_sequential_source_is_ordered_like_any_other(self) -> None:
        found, verdict = _judged(*(_image(str(i), run=i // 4) for i in range(32)))
        assert _names(_shards(found, verdict, is_sequential=[True]), found) == _names(_shards(found, verdict), found)


def _members(found: Findings, rows: Sequence[int], *, label: int = 0) -> Members:
    return Members(
        sample_ids=found.sample_ids[rows],
        labels=np.full(len(rows), label, np.int32),
        sha256=found.sha256[rows].copy(),
        copies=np.ones(len(rows), np.int32),
    )


def _packed(
    found: Findings, verdict: Verdict, rows: Sequence[int] = (0,), *, label: int = 0, split: SplitName = "train"
) -> tuple[Commit, Members]:
    """A shard of the found `rows`, packed with `label`."""
    commit = Commit(
        shard=f"{split}-00000",
        object="",
        source="",
        split=split,
        rows_per_group=(len(rows),),
        annotations=annotations_of(np.array(rows, np.int64), found, verdict),
        size_bytes=0,
        footer_sha256="",
        listing_digest="",
    )
    return commit, _members(found, list(rows), label=label)


class TestKnownSamples:
    def _refuse(self, finding: Finding, *, label: int = 0, split: SplitName = "train") -> None:
        found, verdict = _judged(finding)
        known = find_known(found, verdict, [_packed(found, verdict, label=label, split=split)], where="here")
        refuse_changed_samples(found, verdict, known, where="here")

    def test_equal_samples_pass_and_nothing_is_left_to_pack(self) -> None:
        found, verdict = _judged(_image("x"), _image("y"))
        known = find_known(found, verdict, [_packed(found, verdict, (1, 0))], where="here")
        refuse_changed_samples(found, verdict, known, where="here")
        assert _shards(found, verdict, is_packed=known.is_packed) == []
        assert _shards(found, verdict) != []

    def test_each_shard_is_looked_up_by_itself_and_others_stay_unknown(self) -> None:
        found, verdict = _judged(*(_image(str(i), split="test" if i == 4 else "train") for i in range(6)))
        gone, its_verdict = _judged(_image("gone"), _image("gone too"))
        packed = [
            _packed(found, verdict, (4,), split="test"),
            _packed(found, verdict, (2, 0)),
            _packed(gone, its_verdict, (0, 1), split="val"),
        ]
        known = find_known(found, verdict, packed, where="here")
        assert known.is_packed.tolist() == [True, False, True, False, True, False]
        assert known.split[[0, 2, 4]].tolist() == [0, 0, 2]
        refuse_changed_samples(found, verdict, known, where="here")

    def test_nothing_is_known_where_nothing_is_kept(self) -> None:
        found, verdict = _judged(_image("x"), _image("x", label="b"))
        known = find_known(found, verdict, [_packed(found, verdict)], where="here")
        assert not known.is_packed.any()

    def test_another_label_is_named(self) -> None:
        with pytest.raises(CorpusError, match=r"x\.png has label 0, packed with label 7.*overrides_uri"):
            self._refuse(_image("x"), label=7)

    def test_another_split_is_named(self) -> None:
        with pytest.raises(CorpusError, match=r"x\.png is in test, packed in train"):
            self._refuse(_image("x", split="test"))

    def test_other_annotations_are_refused_where_the_shard_is_still_there_whole(self) -> None:
        before = _judged(_image("x", annotations=3), _image("y"))
        packed = [_packed(*before, (0, 1))]
        now = _judged(_image("x", annotations=5), _image("y"))
        with pytest.raises(
            CorpusError, match=r"masks, boxes or polygons have changed in the source.* 2 packed samples.*x\.png"
        ):
            refuse_changed_samples(*now, find_known(*now, packed, where="here"), where="here")
        partly = _judged(_image("x", annotations=5))
        refuse_changed_samples(*partly, find_known(*partly, packed, where="here"), where="here")

    def test_copies_that_now_disagree_leave_the_packed_sample_as_it_is(self) -> None:
        found, verdict = _judged(_image("x"), _image("x", label="b"))
        known = find_known(found, verdict, [_packed(found, verdict)], where="here")
        refuse_changed_samples(found, verdict, known, where="here")
        assert not verdict.kept.any()

    def test_another_image_of_a_packed_id_is_named(self) -> None:
        found, verdict = _judged(_image("x"))
        commit, members = _packed(found, verdict)
        members.sha256[0, 31] ^= 1
        with pytest.raises(CorpusError, match=r"x\.png shares a sample_id"):
            find_known(found, verdict, [(commit, members)], where="here")


class TestRefusals:
    def test_a_changed_setting_is_named_with_both_values(self) -> None:
        identity = Identity(corpus_id="", settings=SETTINGS, classes=())
        other = Settings(**{name: getattr(SETTINGS, name) for name in Settings.__dataclass_fields__} | {"seed": 9})
        with pytest.raises(CorpusError, match=r"corpus\.seed 0, this recipe has 9"):
            refuse_changed_settings(identity, other, where="here")

    @pytest.mark.parametrize(
        ("num_bad", "num_bad_bytes", "refused"), [(1, 1, False), (2, 1, True), (1, 20, True), (0, 0, False)]
    )
    def test_too_many_bad_inputs_or_too_many_of_their_bytes(
        self, num_bad: int, num_bad_bytes: int, refused: bool
    ) -> None:
        arguments = {"num_bad": num_bad, "num_inputs": 100, "num_bad_bytes": num_bad_bytes, "num_bytes": 1000}
        if not refused:
            refuse_bad(**arguments, max_fraction=0.01, told="table")
            return
        with pytest.raises(CorpusError, match=r"table: .* corpus\.max_bad_fraction"):
            refuse_bad(**arguments, max_fraction=0.01, told="table")
