"""Annotations of packed samples are replaced by a table, without packing again."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from kd_ray.config.corpus import AllLabels, LabelsPerClass
from kd_ray.config.load import load_recipe
from kd_ray.corpus import override_values
from kd_ray.corpus.format import SHARD_SCHEMA
from kd_ray.corpus.overrides import read_overrides
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.corpus.sources.local_files import LocalFiles
from kd_ray.errors import CorpusError
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from pipelines.context import Run
from pipelines.stages.pack import pack_corpus
from tests.support.corpus_files import encoded, folder, noise, write_classes
from tests.support.recipes import write

MASK = encoded(np.ones((6, 5), np.uint8))
IDS = pa.array([7, 8], pa.uint64())
TRIANGLE = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]


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
            mask=[MASK, None],
            boxes=[None, box],
            polygons=[polygon, None],
            caption=["a cat", None],
        )
        rows = whole(open_corpus(packed.uri, overrides_uri=uri), ["mask", "boxes", "polygons", "caption"])
        assert rows.masks[:2] == [MASK, None]
        assert rows.boxes[:2] == [None, box]
        assert rows.polygons[:2] == [polygon, None]
        assert rows.captions[:2] == ["a cat", None]
        assert set(rows.captions[2:]) == {None}

    def test_rows_of_samples_that_are_not_packed_are_counted(self, packed: PackedCorpus, tmp_path: Path) -> None:
        ids = [*packed.members("train").sample_ids[:3].tolist(), *packed.members("test").sample_ids[:1].tolist(), 5]
        corpus = open_corpus(
            packed.uri, overrides_uri=table(tmp_path / "t.parquet", sample_id=ids, label=[1] * len(ids))
        )
        assert corpus.overrides is not None
        assert (corpus.overrides.num_matched, len(corpus.overrides.sample_ids)) == (4, 5)

    def test_the_pack_stage_tells_how_many_rows_are_of_packed_samples(
        self, packed: PackedCorpus, tmp_path: Path
    ) -> None:
        ids = [*packed.members("train").sample_ids[:3].tolist(), 5]
        uri = table(tmp_path / "t.parquet", sample_id=ids, label=[1] * len(ids))
        settings = [f"out={tmp_path / 'out'}", f"corpus.packed_uri={packed.uri}", f"corpus.overrides_uri={uri}"]
        run = Run(
            recipe=load_recipe(write(tmp_path), settings),
            storage=open_storage(str(tmp_path / "out")),
            console=Console(quiet=True),
            session=None,  # type: ignore[arg-type]  # nothing starts Ray
            events=EventLog(None),
            stages=("train",),
        )
        pack_corpus(run)
        assert "3 of 4 rows of corpus.overrides_uri are of packed samples" in run.outcomes[-1].detail

    def test_an_empty_table_changes_nothing(self, packed: PackedCorpus, tmp_path: Path) -> None:
        corpus = open_corpus(packed.uri, overrides_uri=table(tmp_path / "t.parquet", sample_id=[], label=[]))
        np.testing.assert_array_equal(corpus.members("train").labels, packed.members("train").labels)

    def test_a_table_at_the_root_of_the_file_system(
        self, monkeypatch: pytest.MonkeyPatch, packed: PackedCorpus, tmp_path: Path
    ) -> None:
        ids = packed.members("train").sample_ids[:1].tolist()
        data = Path(table(tmp_path / "t.parquet", sample_id=ids, caption=["x"])).read_bytes()
        monkeypatch.setattr(LocalFiles, "read", lambda self, location: {"/x.parquet": data}[self.path(location)])
        for uri in ("/x.parquet", "file:///x.parquet"):
            assert whole(open_corpus(packed.uri, overrides_uri=uri), ["caption"]).captions[0] == "x"

    def test_a_table_beside_the_run(
        self, monkeypatch: pytest.MonkeyPatch, packed: PackedCorpus, tmp_path: Path
    ) -> None:
        ids = packed.members("train").sample_ids[:1].tolist()
        table(tmp_path / "t.parquet", sample_id=ids, caption=["x"])
        monkeypatch.chdir(tmp_path)
        assert whole(open_corpus(packed.uri, overrides_uri="t.parquet"), ["caption"]).captions[0] == "x"

    def test_workers_do_not_check_again_what_the_run_has_checked(
        self, monkeypatch: pytest.MonkeyPatch, packed: PackedCorpus, tmp_path: Path
    ) -> None:
        ids = packed.members("train").sample_ids[:1].tolist()
        uri = table(tmp_path / "t.parquet", sample_id=ids, mask=[MASK])
        address = open_corpus(packed.uri, overrides_uri=uri).address
        monkeypatch.setattr(PackedCorpus, "shard_sample_ids", None)
        monkeypatch.setattr(override_values, "check_mask", None)
        assert whole(address.open(), ["mask"]).masks[0] == MASK

    def test_a_table_that_changes_during_the_run_is_refused(self, packed: PackedCorpus, tmp_path: Path) -> None:
        ids = packed.members("train").sample_ids[:1].tolist()
        uri = table(tmp_path / "t.parquet", sample_id=ids, label=[0])
        address = open_corpus(packed.uri, overrides_uri=uri).address
        table(tmp_path / "t.parquet", sample_id=ids, label=[1])
        with pytest.raises(CorpusError, match="changed since the run began"):
            address.open()

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

    def test_a_table_of_another_corpus(self, packed: PackedCorpus, tmp_path: Path) -> None:
        table(tmp_path / "t.parquet", sample_id=[8, 5], label=[0, 1])
        told = self._refused(packed, tmp_path / "t.parquet")
        assert "none of its 2 rows has the sample_id of a packed sample; the first is 5" in told

    def test_a_table_whose_bytes_are_damaged(self, packed: PackedCorpus, tmp_path: Path) -> None:
        ids = packed.members("train").sample_ids.tolist()
        path = tmp_path / "t.parquet"
        caption = ["a caption"] * len(ids)
        pq.write_table(
            pa.table({"sample_id": pa.array(ids, pa.uint64()), "caption": caption}), path, write_page_checksum=True
        )
        whole_file = path.read_bytes()
        path.write_bytes(whole_file.replace(b"a caption", b"b caption", 1))
        assert "or a damaged one" in self._refused(packed, path)
        for place in range(4, len(whole_file), 7):  # headers of pages and the footer among them
            path.write_bytes(whole_file[:place] + bytes([whole_file[place] ^ 0xFF]) + whole_file[place + 1 :])
            try:
                read_overrides(str(path), classes=packed.classes)
            except CorpusError as error:
                assert str(path) in str(error)  # noqa: PT017

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

    @pytest.mark.parametrize("ids", [pa.array([7.0]), pa.array(["7"]), pa.array([True])], ids=lambda ids: str(ids.type))
    def test_ids_that_are_no_integers(self, packed: PackedCorpus, tmp_path: Path, ids: Any) -> None:
        pq.write_table(pa.table({"sample_id": ids, "label": [1]}), tmp_path / "t.parquet")
        told = self._refused(packed, tmp_path / "t.parquet")
        assert f"column sample_id holds {ids.type}, expected uint64" in told

    def test_true_is_no_label(self, packed: PackedCorpus, tmp_path: Path) -> None:
        pq.write_table(pa.table({"sample_id": IDS, "label": [True, False]}), tmp_path / "t.parquet")
        assert "column label holds bool, expected int64" in self._refused(packed, tmp_path / "t.parquet")

    @pytest.mark.parametrize("column", ["boxes", "polygons"])
    @pytest.mark.parametrize("more", [{"label": True}, {"score": 0.5}], ids=str)
    def test_fields_that_no_shard_has(
        self, packed: PackedCorpus, tmp_path: Path, column: str, more: dict[str, Any]
    ) -> None:
        shape = {"corners" if column == "boxes" else "points": [0.0, 0.0, 1.0, 1.0], **more}
        pq.write_table(pa.table({"sample_id": IDS, column: [[shape], None]}), tmp_path / "t.parquet")
        assert f"column {column} holds list" in self._refused(packed, tmp_path / "t.parquet")

    def test_a_column_twice(self, packed: PackedCorpus, tmp_path: Path) -> None:
        twice = pa.Table.from_arrays([IDS, pa.array([0, 1]), pa.array([1, 0])], ["sample_id", "label", "label"])
        pq.write_table(twice, tmp_path / "t.parquet")
        assert "each once" in self._refused(packed, tmp_path / "t.parquet")

    @pytest.mark.parametrize(
        ("box", "told"),
        [
            ({"label": 1, "corners": [100.0, 50.0, 200.0, 80.0]}, "as fractions from 0 to 1"),
            ({"label": 1, "corners": [0.0, 0.0, 1.0, 1.0, 0.5]}, "as fractions from 0 to 1"),
            ({"label": 1, "corners": [0.0, 0.0, 1.0]}, "as fractions from 0 to 1"),
            ({"label": 1, "corners": [0.0, 0.0, float("nan"), 1.0]}, "as fractions from 0 to 1"),
            ({"label": 1, "corners": [0.0, None, 1.0, 1.0]}, "as fractions from 0 to 1"),
            ({"label": 1, "corners": None}, "as fractions from 0 to 1"),
            ({"label": 1, "corners": [0.5, 0.0, 0.5, 1.0]}, "a box without area"),
            ({"label": 1, "corners": [0.0, 0.9, 1.0, 0.1]}, "a box without area"),
            ({"label": -1, "corners": [0.0, 0.0, 1.0, 1.0]}, "the label -1"),
            (None, "a null among the boxes"),
        ],
        ids=str,
    )
    def test_what_is_no_box(self, packed: PackedCorpus, tmp_path: Path, box: Any, told: str) -> None:
        good = {"label": None, "corners": [0.0, 0.25, 0.5, 1.0]}
        table(tmp_path / "t.parquet", sample_id=[8, 7], boxes=[[good], [good, box]])
        said = self._refused(packed, tmp_path / "t.parquet")
        assert "row 1 (sample_id 7): boxes hold " in said
        assert told in said

    @pytest.mark.parametrize(
        ("polygon", "told"),
        [
            ({"label": 1, "points": TRIANGLE[:4]}, "three points or more"),
            ({"label": 1, "points": TRIANGLE[:5]}, "three points or more"),
            ({"label": 1, "points": [*TRIANGLE, 1.0]}, "three points or more"),
            ({"label": 1, "points": [*TRIANGLE[:5], 480.0]}, "three points or more"),
            ({"label": 1, "points": [*TRIANGLE[:5], float("inf")]}, "three points or more"),
            ({"label": -2, "points": TRIANGLE}, "the label -2"),
            (None, "a null among the polygons"),
        ],
        ids=str,
    )
    def test_what_is_no_polygon(self, packed: PackedCorpus, tmp_path: Path, polygon: Any, told: str) -> None:
        good = {"label": 3, "points": TRIANGLE}
        table(tmp_path / "t.parquet", sample_id=[8, 7], polygons=[[good], [polygon]])
        said = self._refused(packed, tmp_path / "t.parquet")
        assert "row 1 (sample_id 7): polygons hold " in said
        assert told in said

    @pytest.mark.parametrize(
        ("mask", "told"),
        [
            (b"garbage", "not_an_image"),
            (b"", "empty"),
            (encoded(noise(1)), "mode RGB are no class indices"),
            (encoded(noise(2)[..., 0], "JPEG"), "JPEG changes class indices"),
            (encoded(noise(3, height=64, width=64)[..., 0])[:-400], "truncated"),
        ],
        ids=["garbage", "empty", "colours", "jpeg", "truncated"],
    )
    def test_what_is_no_mask(self, packed: PackedCorpus, tmp_path: Path, mask: bytes, told: str) -> None:
        table(tmp_path / "t.parquet", sample_id=[9, 8, 7], mask=[MASK, None, mask])
        said = self._refused(packed, tmp_path / "t.parquet")
        assert "row 2 (sample_id 7): " in said
        assert told in said

    def test_a_sample_twice(self, packed: PackedCorpus, tmp_path: Path) -> None:
        table(tmp_path / "t.parquet", sample_id=[5, 5], label=[0, 1])
        assert "sample_id 5 is there twice" in self._refused(packed, tmp_path / "t.parquet")

    @pytest.mark.parametrize("label", [2, -1, "zebra"])
    def test_a_label_that_is_no_class(self, packed: PackedCorpus, tmp_path: Path, label: int | str) -> None:
        table(tmp_path / "t.parquet", sample_id=[5], label=[label])
        assert "none of the corpus's 2 classes" in self._refused(packed, tmp_path / "t.parquet")
