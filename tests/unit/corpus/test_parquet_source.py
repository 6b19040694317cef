"""Parquet tables of images: every form of their columns, damage, and reading again by row."""

import json
import os
import pickle
import random
from dataclasses import replace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray.config.corpus import HashSplit, ParquetCorpus, PathSplit
from kd_ray.corpus.source import Box, Input, Polygon, Rejected
from kd_ray.corpus.sources.parquet_source import MAX_EXTENT_ROWS, ParquetSource, open_parquet
from kd_ray.errors import CorpusError, StorageError
from tests.support.corpus_files import IMPOSSIBLE_URLS, png, write
from tests.support.shared_data import shared_data


def source_of(uri: Any, **settings: Any) -> ParquetSource:
    split = settings.pop("split", HashSplit())
    return open_parquet(ParquetCorpus(kind="parquet", uri=str(uri), packed_uri="unused", **settings), split=split)


def scanned(source: ParquetSource) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


def told(found: list[Input | Rejected]) -> list[tuple[str, str]]:
    return [(each.location, each.reason if isinstance(each, Rejected) else str(each.label)) for each in found]


def write_table(
    path: Any, columns: dict[str, Any], *, metadata: dict[bytes, bytes] | None = None, **options: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})}), path, **options
    )


def images(num: int = 3) -> list[bytes]:
    return [png(i) for i in range(num)]


def hugging_face(names: list[Any], *, column: str = "label", kind: str = "ClassLabel") -> dict[bytes, bytes]:
    features = {"image": {"_type": "Image"}, column: {"_type": kind, "names": names}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


class TestImages:
    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
    def test_encoded_bytes(self, tmp_path, kind):
        write_table(tmp_path / "0.parquet", {"image": pa.array(images(), kind), "label": [0, 1, 2]})
        found = scanned(source_of(tmp_path))
        assert told(found) == [("0.parquet#0", "0"), ("0.parquet#1", "1"), ("0.parquet#2", "2")]
        assert [each.data for each in found] == images()

    def test_structs_hold_bytes_or_a_path_below_the_source(self, tmp_path):
        write(tmp_path / "far" / "1.png", png(1))
        column = [
            {"bytes": png(0), "path": "x"},
            {"bytes": None, "path": "far/1.png"},
            {"bytes": None, "path": None},
            None,
        ]
        write_table(tmp_path / "data" / "0.parquet", {"image": column})
        found = scanned(source_of(tmp_path / "data" / "..", label_column=None))
        assert told(found[:4]) == [
            ("data/0.parquet#0", "None"),
            ("data/0.parquet#1", "None"),
            ("data/0.parquet#2", "no_image"),
            ("data/0.parquet#3", "no_image"),
        ]
        assert [each.data for each in found[:2]] == [png(0), png(1)]

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
    def test_texts_are_locations_beside_the_file(self, tmp_path, kind):
        write(tmp_path / "data" / "a" / "0.png", png(0))
        write(tmp_path / "1.png", png(1))
        write(tmp_path.parent / f"{tmp_path.name}.png", png(2))
        inside = str(tmp_path / "1.png")
        paths = ["a/0.png", "../1.png", f"../../{tmp_path.name}.png", "/etc/passwd", "b.png", "", None, inside]
        paths += ["file:///etc/passwd", "zip://a::file:///etc/passwd", "local:///etc/passwd", "a\0b"]
        write_table(tmp_path / "data" / "0.parquet", {"image": pa.array(paths, pa.string()).cast(kind)})
        found = scanned(source_of(tmp_path, label_column=None))[: len(paths)]
        unsafe = "unsafe_path"
        reasons = [None, None, unsafe, unsafe, "missing", "no_image", "no_image", None, unsafe, unsafe, unsafe, unsafe]
        assert [each.reason if isinstance(each, Rejected) else None for each in found] == reasons
        assert [each.data for each in found if isinstance(each, Input)] == [png(0), png(1), png(1)]
        assert {each.location for each in found} == {f"data/0.parquet#{i}" for i in range(len(paths))}

    def test_a_location_that_is_not_utf8_rejects_its_row(self, tmp_path):
        column = pa.array([b"\xff.png"], pa.binary()).view(pa.string())
        write_table(tmp_path / "0.parquet", {"image": column})
        assert told(scanned(source_of(tmp_path, label_column=None))) == [("0.parquet#0", "unreadable")]

    def test_urls_are_read_where_they_lead(self, tmp_path):
        fsspec.filesystem("memory").pipe_file("/elsewhere/0.png", png(0))
        urls = ["memory://elsewhere/0.png", "memory://elsewhere/1.png"]
        with fsspec.open("memory://tables/0.parquet", "wb") as file:
            pq.write_table(pa.table({"image": urls}), file)
        found = scanned(source_of("memory://tables", label_column=None))
        assert told(found) == [("0.parquet#0", "None"), ("0.parquet#1", "missing")]

    def test_urls_that_cannot_be_are_missing_alone(self, tmp_path, no_s3):
        write(tmp_path / "0.png", png(0))
        write_table(tmp_path / "0.parquet", {"image": ["0.png", *IMPOSSIBLE_URLS, "az://c/x.png"]})
        found = scanned(source_of(tmp_path, label_column=None))[:-1]
        assert [each.reason for each in found[1:]] == ["missing"] * (len(IMPOSSIBLE_URLS) + 1)
        assert found[0].data == png(0)
        assert found[-1].location == f"0.parquet#{len(found) - 1} az://c/x.png"

    def test_an_object_storage_that_is_not_there_stops_the_scan(self, tmp_path, no_s3):
        write_table(tmp_path / "0.parquet", {"image": ["s3://bucket/x.png"]})
        with pytest.raises(StorageError, match=r"s3://bucket/x\.png: cannot read"):
            scanned(source_of(tmp_path, label_column=None))

    def test_null_images_are_told(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": pa.array([png(0), None], pa.binary()), "label": [None, 1]})
        assert told(scanned(source_of(tmp_path))) == [("0.parquet#0", "None"), ("0.parquet#1", "no_image")]


class TestLabels:
    def labels(self, tmp_path, column, *, metadata=None, **settings):
        write_table(tmp_path / "0.parquet", {"image": images(len(column)), "label": column}, metadata=metadata)
        return [label for _, label in told(scanned(source_of(tmp_path, **settings)))]

    def test_numbers_without_names(self, tmp_path):
        assert self.labels(tmp_path, pa.array([3, -1, None], pa.int16())) == ["3", "None", "None"]

    def test_names(self, tmp_path):
        assert self.labels(tmp_path, ["cat", None, ""]) == ["cat", "None", "bad_label"]

    def test_dictionaries_of_names(self, tmp_path):
        assert self.labels(tmp_path, pa.array(["cat", None, "cat"]).dictionary_encode()) == ["cat", "None", "cat"]

    def test_a_name_that_is_not_utf8_rejects_its_row(self, tmp_path):
        column = pa.array([b"\xff", b"cat"], pa.binary()).view(pa.string())
        assert self.labels(tmp_path, column) == ["bad_label", "cat"]

    def test_names_that_hugging_face_declares(self, tmp_path):
        found = self.labels(tmp_path, [1, 0, -1, 2], metadata=hugging_face(["cat", "dog"]))
        assert found == ["dog", "cat", "None", "bad_label"]
        assert source_of(tmp_path).class_names() == ("cat", "dog")
        assert source_of(tmp_path, label_column=None).class_names() == ()

    @pytest.mark.parametrize(
        "metadata",
        [
            {b"huggingface": b"{"},
            {b"huggingface": b"[]"},
            {b"huggingface": b'{"info": null}'},
            hugging_face(["cat"], kind="Value"),
            hugging_face(["cat"], column="other"),
            hugging_face(["cat", "cat"]),
            hugging_face([1, 2]),
        ],
    )
    def test_metadata_that_declares_no_names_is_none(self, tmp_path, metadata):
        assert self.labels(tmp_path, [1], metadata=metadata) == ["1"]

    def test_each_file_counts_by_its_own_declaration(self, tmp_path):
        for name, names in (("0", ["cat", "dog"]), ("1", ["dog", "cat"]), ("2", [])):
            columns = {"image": images(1), "label": [0]}
            write_table(tmp_path / f"{name}.parquet", columns, metadata=hugging_face(names))
        assert [label for _, label in told(scanned(source_of(tmp_path)))] == ["cat", "dog", "cat"]

    def test_a_list_of_classes_comes_before_what_the_file_declares(self, tmp_path):
        write(tmp_path / "classes.json", b'["eel", "fox"]')
        settings = {"classes_uri": str(tmp_path / "classes.json"), "metadata": hugging_face(["cat", "dog"])}
        assert self.labels(tmp_path, [1, 2], **settings)[:2] == ["fox", "bad_label"]


class TestOtherColumns:
    def test_masks_boxes_polygons_and_captions(self, tmp_path):
        columns = {
            "image": images(),
            "mask": pa.array([b"m", None, b""], pa.binary()),
            "hf_mask": [{"bytes": b"h", "path": None}, None, {"bytes": None, "path": None}],
            "boxes": [[{"label": 1, "box": [0.0, 0.0, 2.0, 2.0]}], None, []],
            "polygons": ["[[0, 0, 1, 0, 1, 1]]", None, "[]"],
            "caption": ["a", None, ""],
        }
        write_table(tmp_path / "0.parquet", columns)
        named = {f"{name}_column": name for name in ("mask", "boxes", "polygons", "caption")}
        found = scanned(source_of(tmp_path, label_column=None, **named))
        assert [each.mask for each in found] == [b"m", None, b""]
        assert [each.boxes for each in found] == [(Box(label=1, corners=(0, 0, 2, 2)),), None, ()]
        assert [each.polygons for each in found] == [(Polygon(label=None, points=(0, 0, 1, 0, 1, 1)),), None, ()]
        assert [each.caption for each in found] == ["a", None, ""]
        again = scanned(source_of(tmp_path, label_column=None, mask_column="hf_mask"))
        assert [each.mask for each in again] == [b"h", None, None]

    def test_boxes_as_hugging_face_stores_them(self, tmp_path):
        objects = [{"bbox": [[1.0, 1.0, 2.0, 3.0]], "category": [4]}]
        write_table(tmp_path / "0.parquet", {"image": images(1), "objects": objects})
        [each] = scanned(source_of(tmp_path, label_column=None, boxes_column="objects"))
        assert each.boxes == (Box(label=4, corners=(1, 1, 3, 4)),)

    def test_annotations_that_cannot_be_understood_reject_their_row(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images(), "boxes": ["[[1]]", "{", "[]"]})
        found = scanned(source_of(tmp_path, label_column=None, boxes_column="boxes"))
        assert [label for _, label in told(found)] == ["bad_annotation", "bad_annotation", "None"]


class TestListing:
    def test_extents_are_runs_of_row_groups(self, tmp_path):
        num_rows = 2 * MAX_EXTENT_ROWS + 10
        write_table(tmp_path / "0.parquet", {"image": [b"x"] * num_rows}, row_group_size=3000)
        source = source_of(tmp_path, label_column=None)
        extents = list(source.extents())
        assert [extent.num_inputs for extent in extents] == [6000, 6000, num_rows - 12000]
        assert len({extent.digest for extent in extents}) == 3
        assert [each.run for each in source.scan(extents[1])] == [2] * 3000 + [3] * 3000
        assert next(source.scan(extents[1])).locator == "0.parquet#6000"

    def test_extents_hold_64_mib(self, tmp_path):
        big = random.Random(0).randbytes(30 << 20)
        settings = {"row_group_size": 1, "compression": "none", "use_dictionary": False}
        write_table(tmp_path / "0.parquet", {"image": [big] * 3}, **settings)
        extents = list(source_of(tmp_path, label_column=None).extents())
        assert [extent.num_inputs for extent in extents] == [2, 1]
        assert extents[0].num_bytes == pytest.approx(60 << 20, rel=0.01)

    def test_one_file_is_a_source(self, tmp_path):
        write_table(tmp_path / "a[0].parquet", {"image": images(1)})
        write_table(tmp_path / "b.parquet", {"image": images(1)})
        assert told(scanned(source_of(tmp_path / "a[0].parquet", label_column=None))) == [("a[0].parquet#0", "None")]

    def test_splits_are_folders_files_or_patterns_and_other_files_are_told(self, tmp_path):
        for name in ("train-0.parquet", "train-1.parquet", "held/out.parquet"):
            write_table(tmp_path / name, {"image": images(1)})
        write(tmp_path / "held" / "readme.md", b"text")
        source = source_of(tmp_path, label_column=None, split=PathSplit(train="train-*", test="held"))
        assert [extent.split for extent in source.extents()] == ["train", "train", "test", "test"]
        assert told(scanned(source))[-1] == ("held/readme.md", "other_type")

    def test_a_slash_behind_the_name_of_a_file_changes_nothing(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images(1)})
        assert told(scanned(source_of(f"{tmp_path}/0.parquet/", label_column=None))) == [("0.parquet#0", "None")]

    def test_mistakes_are_named(self, tmp_path):
        with pytest.raises(CorpusError, match=r"no \.parquet files among its 0"):
            list(source_of(tmp_path).extents())
        write_table(tmp_path / "0.parquet", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())})
        with pytest.raises(CorpusError, match=r"no samples in its \.parquet files"):
            list(source_of(tmp_path).extents())
        write_table(tmp_path / "0.parquet", {"image": images(), "label": [0.5, 1.0, 2.0], "other": [1, 2, 3]})
        for settings, message in (
            ({"image_column": "img"}, r"no column 'img'; it has image, label, other\. Set corpus\.image_column to one"),
            (
                {"label_column": "y"},
                r"0\.parquet: no column 'y'.*Set corpus\.label_column to one of them, or null for none",
            ),
            (
                {"label_column": None, "mask_column": "m"},
                r"no column 'm'.*Set corpus\.mask_column to one of them, or null for none",
            ),
            ({"image_column": "other"}, "'other' holds int64, expected encoded images"),
            ({}, "'label' holds double, expected integers or strings"),
            ({"label_column": None, "mask_column": "other"}, "'other' holds int64, expected encoded masks"),
            ({"label_column": None, "caption_column": "image"}, "'image' holds binary, expected strings"),
        ):
            with pytest.raises(CorpusError, match=message):
                list(source_of(tmp_path, **settings).extents())

    def test_the_source_pickles(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images(), "label": [0, 1, 2]})
        source = source_of(tmp_path)
        assert scanned(pickle.loads(pickle.dumps(source))) == scanned(source)


class TestFilesWithOtherColumns:
    def test_a_file_without_the_columns_of_the_others_is_rejected(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"picture": images(2)})
        write_table(tmp_path / "1.parquet", {"image": images(2), "label": [0, 1]})
        write_table(tmp_path / "2.parquet", {"image": images(2), "label": [0.5, 1.5]})
        found = scanned(source_of(tmp_path))
        assert told(found) == [
            ("1.parquet#0", "0"),
            ("1.parquet#1", "1"),
            ("0.parquet", "other_columns"),
            ("2.parquet", "other_columns"),
        ]
        assert {each.size_bytes for each in found[2:]} == {
            (tmp_path / name).stat().st_size for name in ("0.parquet", "2.parquet")
        }

    def test_a_file_with_a_column_twice_is_rejected(self, tmp_path):
        write_table(tmp_path / "1.parquet", {"image": images(2), "label": [0, 1]})
        arrays, names = [pa.array(images(1)), pa.array([1]), pa.array([2])], ["image", "label", "label"]
        pq.write_table(pa.Table.from_arrays(arrays, names=names), tmp_path / "0.parquet")
        assert told(scanned(source_of(tmp_path)))[2:] == [("0.parquet", "other_columns")]
        with pytest.raises(CorpusError, match=r"0\.parquet: 2 columns 'label', which corpus\.label_column names"):
            scanned(source_of(tmp_path / "0.parquet"))
        assert told(scanned(source_of(tmp_path / "0.parquet", label_column=None))) == [("0.parquet#0", "None")]

    def test_the_class_names_are_those_of_the_first_file_with_the_columns(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"picture": images(2)})
        columns = {"image": images(2), "label": [0, 1]}
        write_table(tmp_path / "1.parquet", columns, metadata=hugging_face(["cat", "dog"]))
        assert source_of(tmp_path).class_names() == ("cat", "dog")

    def test_a_file_that_has_changed_since_it_was_listed_is_rejected(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images(2), "label": [0, 1]})
        source = source_of(tmp_path)
        (extent,) = source.extents()
        write_table(tmp_path / "0.parquet", {"image": images(2), "class": [0, 1]})
        assert told(list(source.scan(extent))) == [("0.parquet", "other_columns")]


class TestDamage:
    def test_files_that_are_no_parquet_are_one_row_each(self, tmp_path):
        write_table(tmp_path / "good.parquet", {"image": images(1)})
        whole = (tmp_path / "good.parquet").read_bytes()
        write(tmp_path / "cut.parquet", whole[:-30])
        write(tmp_path / "empty.parquet", b"")
        write(tmp_path / "html.parquet", b"<html>")
        write(tmp_path / "short.parquet", b"PAR1")
        assert told(scanned(source_of(tmp_path, label_column=None))) == [
            ("good.parquet#0", "None"),
            ("cut.parquet", "damaged_archive"),
            ("empty.parquet", "empty"),
            ("html.parquet", "not_an_archive"),
            ("short.parquet", "damaged_archive"),
        ]

    @pytest.mark.parametrize("options", [{"write_page_checksum": True, "compression": "none"}, {"compression": "zstd"}])
    def test_a_damaged_row_group_is_lost_from_its_damage_on(self, tmp_path, options):
        data = [bytes(random.Random(i).choices(b"abcdefgh", k=5000)) for i in range(300)]
        path = tmp_path / "0.parquet"
        settings = {"row_group_size": 100, "use_dictionary": False, "data_page_size": 50_000, **options}
        write_table(path, {"image": data}, **settings)
        group = pq.read_metadata(path).row_group(1)
        column = group.column(0)
        content = bytearray(path.read_bytes())
        middle = column.data_page_offset + column.total_compressed_size // 2
        content[middle : middle + 2000] = bytes(2000)
        path.write_bytes(bytes(content))
        source = source_of(tmp_path, label_column=None)
        found = scanned(source)
        [lost] = [each for each in found if isinstance(each, Rejected)]
        first = int(lost.location.removeprefix("0.parquet#").removesuffix("-199"))
        assert lost.reason == "damaged_archive"
        assert 100 <= first <= 150
        assert lost.size_bytes == min(group.total_byte_size, len(content)) * (200 - first) // 100
        assert {each.locator: each.data for each in found if isinstance(each, Input)} == {
            f"0.parquet#{i}": data[i] for i in (*range(first), *range(200, 300))
        }
        again = source.fetch([f"0.parquet#{i}" for i in (0, first - 1, 299)])
        assert [each.data for each in again] == [data[0], data[first - 1], data[299]]
        with pytest.raises(CorpusError, match=r"0\.parquet: it cannot be read"):
            list(source.fetch(["0.parquet#199"]))

    def test_no_flipped_byte_stops_a_scan(self, tmp_path):
        rng = random.Random(0)
        columns = {
            "image": [{"bytes": rng.randbytes(100), "path": "x"} for _ in range(40)],
            "label": [i % 3 for i in range(40)],
        }
        write_table(tmp_path / "0.parquet", columns, metadata=hugging_face(["a", "b", "c"]), write_page_checksum=True)
        whole = (tmp_path / "0.parquet").read_bytes()
        sound = [each.data for each in scanned(source_of(tmp_path)) if isinstance(each, Input)]
        assert len(sound) == 40
        num_scans = num_rejected = 0
        for _ in range(400):
            data = bytearray(whole)
            for at in rng.sample(range(len(data)), rng.choice([1, 3])):
                data[at] = rng.randrange(256)
            (tmp_path / "0.parquet").write_bytes(bytes(data))
            try:
                found = scanned(source_of(tmp_path))
            except CorpusError:  # a damaged footer may give a column another name or type; anything else fails the test
                continue
            num_scans += 1
            num_rejected += any(isinstance(each, Rejected) for each in found)
            # what page checksums cover is right or rejected, never another image
            assert {each.data for each in found if isinstance(each, Input)} <= set(sound)
        assert num_scans > 100
        assert num_rejected > 10

    def test_a_file_that_becomes_shorter_is_not_taken_for_damage(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images()})
        source = source_of(tmp_path, label_column=None)
        [extent] = source.extents()
        os.truncate(tmp_path / "0.parquet", 100)
        with pytest.raises(StorageError, match=r"0\.parquet: got .* the file changes"):
            list(source.scan(extent))


class TestFetch:
    @pytest.mark.parametrize("location", [False, True])
    def test_a_random_subset_is_fetched_as_it_was_scanned(self, tmp_path, location):
        for name in ("0.parquet", "b/1.parquet"):
            data = [random.Random(f"{name}{i}").randbytes(200) for i in range(150)]
            paths = [f"images/{i}.png" for i in range(150)]
            for path, each in zip(paths, data, strict=True):
                write((tmp_path / name).parent / path, each)
            columns = {"image": paths if location else data, "label": [i % 3 for i in range(150)], "caption": paths}
            write_table(tmp_path / name, columns, row_group_size=70)
        source = source_of(tmp_path, caption_column="caption")
        inputs = {each.locator: each for each in scanned(source) if isinstance(each, Input)}
        assert len(inputs) == 300
        for seed in range(5):
            wanted = random.Random(seed).sample(sorted(inputs), random.Random(seed).randrange(1, 300))
            found = {each.locator: each for each in source.fetch([*wanted, wanted[0]])}
            assert found == {locator: replace(inputs[locator], run=0) for locator in wanted}

    def test_what_has_changed_since_is_an_error(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images(2)})
        source = source_of(tmp_path, label_column=None)
        write_table(tmp_path / "0.parquet", {"image": [png(0), None]})
        with pytest.raises(CorpusError, match=r"0\.parquet: it has 2 rows and so none 2"):
            list(source.fetch(["0.parquet#2"]))
        with pytest.raises(CorpusError, match=r"0\.parquet#1: it is rejected now \(no_image\)"):
            list(source.fetch(["0.parquet#1"]))
        (tmp_path / "0.parquet").unlink()
        with pytest.raises(CorpusError, match=r"0\.parquet: it cannot be read, though it was there"):
            list(source.fetch(["0.parquet#0"]))

    def test_a_file_that_is_gone_at_the_scan_is_rejected(self, tmp_path):
        write_table(tmp_path / "0.parquet", {"image": images(2)})
        source = source_of(tmp_path, label_column=None)
        [extent] = source.extents()
        (tmp_path / "0.parquet").unlink()
        assert told(list(source.scan(extent))) == [("0.parquet", "missing")]


def test_cifar10_is_read_with_its_classes():
    folder = shared_data("cifar10")
    source = source_of(folder / "test.parquet", classes_uri=str(folder / "classes.json"), image_column="image")
    extents = list(source.extents())
    assert sum(extent.num_inputs for extent in extents) == pq.read_metadata(folder / "test.parquet").num_rows
    found = list(source.scan(extents[0]))
    assert {each.label for each in found} == set(source.class_names())
    wanted = [found[5], found[-1]]
    assert list(source.fetch([each.locator for each in wanted])) == [replace(each, run=0) for each in wanted]
