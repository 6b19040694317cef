"""Annotations of packed samples are replaced by a table, without packing again."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray.config.corpus import AllLabels, LabelsPerClass
from kd_ray.corpus.format import SHARD_SCHEMA
from kd_ray.corpus.overrides import read_overrides
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import CorpusError
from tests.support.corpus_files import folder, write_classes


@pytest.fixture
def packed(tmp_path: Path) -> PackedCorpus:
    write_classes(tmp_path / "src", per_class=10)
    config = folder(tmp_path)
    pack(config)
    return open_corpus(config.packed_uri)


def table(path: Path, **columns: Any) -> str:
    """A table of overrides with the given columns."""
    fields = {
        name: pa.array(values, SHARD_SCHEMA.field(name).type) if name != "label" else pa.array(values)
        for name, values in columns.items()
    }
    pq.write_table(pa.table(fields), path)
    return str(path)


def whole(corpus: PackedCorpus, columns: list[Any]) -> Any:
    shard = corpus.shards("train")[0]
    return corpus.read_rows(shard.name, 0, len(shard.rows_per_group), columns=columns)


class TestOverrides:
    def test_labels_are_replaced_by_number_or_name_and_nulls_keep_what_is_packed(
        self, packed: PackedCorpus, tmp_path: Path
    ) -> None:
        members = packed.members("train")
        ids = members.sample_ids[:3].tolist()
        new = [1 - int(label) for label in members.labels[:3]]
        by_number = open_corpus(packed.uri, overrides_uri=table(tmp_path / "n.parquet", sample_id=ids, label=new))
        names = [packed.classes[new[0]], None, packed.classes[new[2]]]
        by_name = open_corpus(packed.uri, overrides_uri=table(tmp_path / "s.parquet", sample_id=ids, label=names))
        assert by_number.members("train").labels[:3].tolist() == new
        assert by_name.members("train").labels[:3].tolist() == [new[0], members.labels[1], new[2]]
        np.testing.assert_array_equal(by_number.members("train").labels[3:], members.labels[3:])
        for corpus in (by_number, by_name):
            np.testing.assert_array_equal(whole(corpus, ["label"]).labels, corpus.members("train").labels[:4])

    def test_what_learns_from_labels_sees_another_corpus_and_targets_do_not(
        self, packed: PackedCorpus, tmp_path: Path
    ) -> None:
        ids = packed.members("train").sample_ids[:1].tolist()
        corpus = open_corpus(packed.uri, overrides_uri=table(tmp_path / "t.parquet", sample_id=ids, label=[0]))
        assert corpus.corpus_id == packed.corpus_id
        assert corpus.annotated_id != packed.annotated_id

    def test_the_usable_labels_follow(self, packed: PackedCorpus, tmp_path: Path) -> None:
        ids = packed.members("train").sample_ids.tolist()
        corpus = open_corpus(
            packed.uri, overrides_uri=table(tmp_path / "t.parquet", sample_id=ids, label=[1] * len(ids))
        )
        with pytest.raises(CorpusError, match="class 'a' has 0 labelled samples"):
            corpus.labelled_ids("train", LabelsPerClass(kind="per_class", count=1))
        assert len(corpus.labelled_ids("train", AllLabels())) == len(ids)

    def test_masks_boxes_polygons_and_captions_are_given(self, packed: PackedCorpus, tmp_path: Path) -> None:
        ids = packed.members("train").sample_ids[:2].tolist()
        box = [{"label": 1, "corners": [0.0, 0.25, 0.5, 1.0]}]
        polygon = [{"label": None, "points": [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]}]
        uri = table(
            tmp_path / "t.parquet",
            sample_id=ids,
            mask=[b"mask", None],
            boxes=[None, box],
            polygons=[polygon, None],
            caption=["a cat", None],
        )
        rows = whole(open_corpus(packed.uri, overrides_uri=uri), ["mask", "boxes", "polygons", "caption"])
        assert rows.masks[:2] == [b"mask", None]
        assert rows.boxes[:2] == [None, box]
        assert rows.polygons[:2] == [polygon, None]
        assert rows.captions[:2] == ["a cat", None]
        assert set(rows.captions[2:]) == {None}

    def test_a_pickled_corpus_keeps_them(self, packed: PackedCorpus, tmp_path: Path) -> None:
        ids = packed.members("train").sample_ids[:1].tolist()
        uri = table(tmp_path / "t.parquet", sample_id=ids, caption=["x"])
        corpus = pickle.loads(pickle.dumps(open_corpus(packed.uri, overrides_uri=uri)))
        assert whole(corpus, ["caption"]).captions[0] == "x"
        assert whole(corpus.address.open(), ["caption"]).captions[0] == "x"


class TestRefusals:
    def _refused(self, packed: PackedCorpus, path: Path) -> str:
        with pytest.raises(CorpusError) as caught:
            open_corpus(packed.uri, overrides_uri=str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_a_missing_table(self, packed: PackedCorpus, tmp_path: Path) -> None:
        assert "corpus.overrides_uri" in self._refused(packed, tmp_path / "no.parquet")

    def test_what_is_no_parquet(self, packed: PackedCorpus, tmp_path: Path) -> None:
        (tmp_path / "t.parquet").write_bytes(b"sample_id,label\n1,2\n")
        assert "not a Parquet file" in self._refused(packed, tmp_path / "t.parquet")

    @pytest.mark.parametrize("columns", [{"sample_id": [1]}, {"label": [1]}, {"sample_id": [1], "colour": ["red"]}])
    def test_other_columns(self, packed: PackedCorpus, tmp_path: Path, columns: dict[str, list[Any]]) -> None:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        assert "expected sample_id and any of label" in self._refused(packed, tmp_path / "t.parquet")

    @pytest.mark.parametrize(
        ("key", "label", "caption"),
        [
            (pa.int64(), pa.int8(), pa.large_string()),
            (pa.uint64(), pa.float64(), pa.string_view()),
            (pa.uint64(), pa.int64(), pa.dictionary(pa.int32(), pa.string())),
        ],
        ids=str,
    )
    def test_equal_types_of_other_writers_pass(
        self, packed: PackedCorpus, tmp_path: Path, key: Any, label: Any, caption: Any
    ) -> None:
        columns = {
            "sample_id": pa.array([7], key),
            "label": pa.array([1], label),
            "caption": pa.array(["a"]).cast(caption),
        }
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        overrides = read_overrides(str(tmp_path / "t.parquet"), classes=["no", "yes"])
        assert overrides.labels(np.array([7], np.uint64), np.array([0], np.int32)).tolist() == [1]
        assert overrides.values("caption", np.array([7], np.uint64), [None]) == ["a"]

    def test_a_fraction_is_no_label(self, packed: PackedCorpus, tmp_path: Path) -> None:
        columns = {"sample_id": pa.array([1], pa.uint64()), "label": [0.5]}
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        assert "label holds double, expected int64" in self._refused(packed, tmp_path / "t.parquet")

    def test_a_column_of_another_type(self, packed: PackedCorpus, tmp_path: Path) -> None:
        columns = {"sample_id": pa.array([1], pa.uint64()), "caption": [3.5]}
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        assert "caption holds double, expected string" in self._refused(packed, tmp_path / "t.parquet")

    def test_a_sample_twice(self, packed: PackedCorpus, tmp_path: Path) -> None:
        table(tmp_path / "t.parquet", sample_id=[5, 5], label=[0, 1])
        assert "sample_id 5 is there twice" in self._refused(packed, tmp_path / "t.parquet")

    @pytest.mark.parametrize("label", [2, -1, "zebra"])
    def test_a_label_that_is_no_class(self, packed: PackedCorpus, tmp_path: Path, label: int | str) -> None:
        table(tmp_path / "t.parquet", sample_id=[5], label=[label])
        assert "none of the corpus's 2 classes" in self._refused(packed, tmp_path / "t.parquet")
