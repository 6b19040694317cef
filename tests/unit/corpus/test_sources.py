"""Where images come from: folders, Parquet files, the digits; and which mistakes are named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_files import folder, png, write, write_classes
from PIL import Image
from sklearn.datasets import load_digits

from kd_ray.config.corpus import DigitsCorpus, ParquetCorpus, PathSplit
from kd_ray.corpus.sources import listing_digest, open_source
from kd_ray.errors import CorpusError


def parquet(tmp_path, **settings) -> ParquetCorpus:
    defaults = {"kind": "parquet", "uri": str(tmp_path / "src"), "packed_uri": str(tmp_path / "packed")}
    return ParquetCorpus(**{**defaults, **settings})


def write_table(path, *, num_rows: int = 5, first_seed: int = 0, hf: bool = False, label_type="int64"):
    images = [png(first_seed + i) for i in range(num_rows)]
    column = pa.array([{"bytes": data, "path": None} for data in images]) if hf else pa.array(images)
    labels = pa.array([i % 3 for i in range(num_rows)]).cast(label_type)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, "label": labels}), path, row_group_size=2)


class TestFolder:
    def test_sub_folders_are_classes_by_sorted_name(self, tmp_path):
        write(tmp_path / "src" / "b" / "deep" / "1.png", png(1))
        write(tmp_path / "src" / "a" / "2.PNG", png(2))
        write(tmp_path / "src" / "a" / "notes.txt", b"")
        write(tmp_path / "src" / ".hidden" / "3.png", png(3))
        source = open_source(folder(tmp_path))
        assert source.classes == ("a", "b")
        assert source.num_other_files == 1
        assert [(s.location, s.label, s.data) for s in source.samples()] == [
            ("a/2.PNG", 0, png(2)),
            ("b/deep/1.png", 1, png(1)),
        ]

    def test_images_alone_are_unlabelled(self, tmp_path):
        write(tmp_path / "src" / "1.png", png(1))
        source = open_source(folder(tmp_path))
        assert source.classes == ()
        assert [sample.label for sample in source.samples()] == [None]

    def test_classes_are_the_union_over_splits(self, tmp_path):
        write(tmp_path / "src" / "train" / "b" / "1.png", png(1))
        write(tmp_path / "src" / "val" / "a" / "2.png", png(2))
        source = open_source(folder(tmp_path, split=PathSplit(train="train/", test="./val")))
        assert source.classes == ("a", "b")
        assert [(s.location, s.split, s.label) for s in source.samples()] == [
            ("train/b/1.png", "train", 1),
            ("val/a/2.png", "test", 0),
        ]

    def test_names_with_glob_characters_are_read_as_they_are(self, tmp_path):
        write(tmp_path / "src" / "a" / "img[1]*?.png", png(1))
        write(tmp_path / "src" / "a" / "img1.png", png(2))
        source = open_source(folder(tmp_path))
        assert {s.location: s.data for s in source.samples()} == {"a/img[1]*?.png": png(1), "a/img1.png": png(2)}
        assert dict(source.read(["a/img[1]*?.png"])) == {"a/img[1]*?.png": png(1)}

    def test_listing_digest_changes_with_a_file(self, tmp_path):
        write_classes(tmp_path / "src", per_class=2)
        config = folder(tmp_path)
        before = listing_digest(open_source(config), config)
        assert listing_digest(open_source(config), config) == before
        write(tmp_path / "src" / "a" / "000.png", png(99) + b"\0")
        assert listing_digest(open_source(config), config) != before

    def test_mistakes_are_named(self, tmp_path):
        with pytest.raises(CorpusError, match=r"src: not found.*Check corpus\.uri"):
            open_source(folder(tmp_path))
        write(tmp_path / "src" / "readme.txt", b"")
        with pytest.raises(CorpusError, match="no images among its 1 visible files"):
            open_source(folder(tmp_path))
        write(tmp_path / "src" / "a" / "1.png", png(1))
        write(tmp_path / "src" / "2.png", png(2))
        with pytest.raises(CorpusError, match=r"2\.png lies beside class folders \(a/1\.png\)"):
            open_source(folder(tmp_path))
        with pytest.raises(CorpusError, match=r"src/val: not found"):
            open_source(folder(tmp_path, split=PathSplit(train="a", test="val")))
        with pytest.raises(CorpusError, match="overlap"):
            open_source(folder(tmp_path, split=PathSplit(train=".", test="a")))
        with pytest.raises(CorpusError, match="not below"):
            open_source(folder(tmp_path, split=PathSplit(train="../x", test="a")))


class TestParquet:
    @pytest.mark.parametrize("hf", [False, True])
    def test_rows_are_samples(self, tmp_path, hf):
        write_table(tmp_path / "src" / "0.parquet", hf=hf)
        write_table(tmp_path / "src" / "1.parquet", first_seed=5, hf=hf, label_type="int8")
        source = open_source(parquet(tmp_path))
        samples = list(source.samples())
        assert source.classes == ("0", "1", "2")
        assert source.num_samples == 10
        assert [sample.data for sample in samples] == [png(i) for i in range(10)]
        assert [sample.label for sample in samples] == [0, 1, 2, 0, 1] * 2
        wanted = ["1.parquet#4", "0.parquet#0", "0.parquet#3"]
        assert dict(source.read(wanted)) == {"0.parquet#0": png(0), "0.parquet#3": png(3), "1.parquet#4": png(9)}

    def test_one_file_and_unlabelled(self, tmp_path):
        write_table(tmp_path / "src.parquet")
        source = open_source(parquet(tmp_path, uri=str(tmp_path / "src.parquet"), label_column=None))
        assert source.classes == ()
        assert next(sample.location for sample in source.samples()) == "src.parquet#0"

    def test_splits_are_files_or_folders_and_classes_have_names(self, tmp_path):
        write_table(tmp_path / "src" / "train" / "0.parquet")
        write_table(tmp_path / "src" / "test.parquet", first_seed=9, num_rows=1)
        write(tmp_path / "classes.json", json.dumps(["cat", "dog", "eel"]).encode())
        split = PathSplit(train="train", test="test.parquet")
        source = open_source(parquet(tmp_path, split=split, classes_uri=str(tmp_path / "classes.json")))
        assert source.classes == ("cat", "dog", "eel")
        assert [sample.split for sample in source.samples()] == ["train"] * 5 + ["test"]

    def test_null_images_and_labels(self, tmp_path):
        (tmp_path / "src").mkdir()
        table = pa.table({"image": pa.array([png(0), None], pa.binary()), "label": pa.array([None, 1], pa.int64())})
        pq.write_table(table, tmp_path / "src" / "0.parquet")
        assert [(s.data, s.label) for s in open_source(parquet(tmp_path)).samples()] == [(png(0), None), (b"", 1)]

    def test_mistakes_are_named(self, tmp_path):
        write(tmp_path / "src" / "0.parquet", b"no parquet at all")
        with pytest.raises(CorpusError, match=r"0\.parquet: not a readable Parquet file"):
            open_source(parquet(tmp_path))
        write_table(tmp_path / "src" / "0.parquet")
        with pytest.raises(CorpusError, match=r"no column 'img'; it has image, label\. Set corpus\.image_column"):
            open_source(parquet(tmp_path, image_column="img"))
        with pytest.raises(CorpusError, match=r"no column 'y'.*or null for none"):
            open_source(parquet(tmp_path, label_column="y"))
        with pytest.raises(CorpusError, match="'label' holds int64, expected encoded images"):
            open_source(parquet(tmp_path, image_column="label"))
        with pytest.raises(CorpusError, match="'image' holds binary, expected integers"):
            open_source(parquet(tmp_path, label_column="image"))
        write(tmp_path / "classes.json", b'["one", "two"]')
        short = open_source(parquet(tmp_path, classes_uri=str(tmp_path / "classes.json")))
        with pytest.raises(CorpusError, match=r"0\.parquet#2: label is 2, expected 0 to 1"):
            list(short.samples())
        write(tmp_path / "classes.json", b'["one", "one"]')
        with pytest.raises(CorpusError, match="list of distinct class names"):
            open_source(parquet(tmp_path, classes_uri=str(tmp_path / "classes.json")))
        write(tmp_path / "other" / "readme.txt", b"")
        with pytest.raises(CorpusError, match=r"no \.parquet files among its 1"):
            open_source(parquet(tmp_path, uri=str(tmp_path / "other")))


class TestDigits:
    def test_they_are_written_once_and_read_as_a_folder(self, tmp_path):
        config = DigitsCorpus(kind="digits", uri=str(tmp_path / "src"), packed_uri=str(tmp_path / "packed"))
        source = open_source(config)
        assert source.classes == tuple("0123456789")
        assert source.num_samples == 1797
        with Image.open(tmp_path / "src" / "3" / "0003.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.rint(np.asarray(image, float) * 16 / 255), load_digits().images[3])
        before = listing_digest(source, config)
        assert listing_digest(open_source(config), config) == before

    def test_a_crash_while_writing_is_repaired(self, tmp_path):
        config = DigitsCorpus(kind="digits", uri=str(tmp_path / "src"), packed_uri=str(tmp_path / "packed"))
        write(tmp_path / "src" / "0" / "0000.png", b"torn")
        source = open_source(config)
        assert source.num_samples == 1797
        assert dict(source.read(["0/0000.png"]))["0/0000.png"].startswith(b"\x89PNG")

    def test_a_folder_with_other_files_is_refused(self, tmp_path):
        write(tmp_path / "src" / "mine.jpg", b"")
        with pytest.raises(CorpusError, match=r"holds 1 files that are not the digits \(mine\.jpg\)"):
            open_source(DigitsCorpus(kind="digits", uri=str(tmp_path / "src"), packed_uri=str(tmp_path / "packed")))
