"""Listings in CSV and JSONL: what a row means, where its image lies, and which mistakes are named."""

import csv
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pytest

from kd_ray.config.corpus import HashSplit, ListingSection, PathSplit, Split
from kd_ray.corpus.source import Box, Input, Polygon, Rejected
from kd_ray.corpus.sources import listing
from kd_ray.corpus.sources.extents import FILES_PER_EXTENT
from kd_ray.corpus.sources.listing import BYTES_PER_REQUEST, ListingSource, open_listing
from kd_ray.corpus.sources.listing_rows import MAX_CELL_CHARACTERS
from kd_ray.errors import CorpusError, StorageError
from tests.support.corpus_files import IMPOSSIBLE_URLS, write
from tests.support.web import web_server

TRIANGLE = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]


def opened(uri: Path | str, *, split: Split | None = None, **settings: Any) -> ListingSource:
    return open_listing(ListingSection(kind="listing", uri=str(uri), **settings), split=split or HashSplit())


def scanned(source: ListingSource) -> list[Input | Rejected]:
    return [each for extent in source.extents() for each in source.scan(extent)]


def reasons(source: ListingSource) -> list[str | None]:
    return [each.reason if isinstance(each, Rejected) else None for each in scanned(source)]


def labels(source: ListingSource) -> list[str | None]:
    return [each.label if isinstance(each, Input) else each.reason for each in scanned(source)]


def as_csv(rows: list[dict[str, Any]], *, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(each) if isinstance(each, list) else each for name, each in row.items()})
    return text.getvalue().encode()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_listing(path: Path, rows: list[dict[str, Any]]) -> Path:
    """In the format of the suffix."""
    formats = {".csv": as_csv, ".tsv": lambda rows: as_csv(rows, delimiter="\t")}
    write(path, formats.get(path.suffix, as_jsonl)(rows))
    return path


def write_images(root: Path, *names: str) -> None:
    for name in names:
        write(root / name, name.encode())


ALL_COLUMNS = {
    "mask_column": "mask",
    "boxes_column": "boxes",
    "polygons_column": "polygons",
    "caption_column": "caption",
}


@pytest.mark.parametrize("name", ["l.csv", "l.tsv", "l.jsonl", "L.NDJSON"])
class TestEveryFormat:
    def test_a_row_is_an_input_with_all_that_belongs_to_it(self, tmp_path, name):
        write_images(tmp_path, "x/1.png", "x/2.png", "m/1.png")
        caption = 'a "cat",\ttwo\nlines, ünder one'
        full = {"image": "x/1.png", "label": "cat", "mask": "m/1.png", "boxes": [[1, 2, 3, 4, 5]]}
        full |= {"polygons": [TRIANGLE], "caption": caption}
        empty = dict.fromkeys(full) | {"image": "x/2.png"}
        first, second = scanned(opened(write_listing(tmp_path / name, [full, empty]), **ALL_COLUMNS))
        assert first == Input(
            location="x/1.png",
            locator=first.locator,
            data=b"x/1.png",
            label="cat",
            mask=b"m/1.png",
            boxes=(Box(label=5, corners=(1.0, 2.0, 3.0, 4.0)),),
            polygons=(Polygon(label=None, points=tuple(TRIANGLE)),),
            caption=caption,
        )
        assert second == Input(location="x/2.png", locator=second.locator, data=b"x/2.png")

    def test_rows_are_fetched_by_their_locators_on_another_machine(self, tmp_path, name):
        write_images(tmp_path, "1.png", "2.png", "3.png")
        rows = [{"image": f"{i}.png", "label": None, "caption": f"number\n{i}"} for i in (1, 2, 3, 1)]
        source = opened(write_listing(tmp_path / name, rows), caption_column="caption")
        inputs = {each.locator: each for each in scanned(source)}
        assert len(inputs) == 4
        wanted = [list(inputs)[i] for i in (3, 1)]
        assert list(pickle.loads(pickle.dumps(source)).fetch(wanted)) == [inputs[locator] for locator in wanted]

    def test_extents_are_runs_of_rows_and_give_each_once(self, tmp_path, name):
        write_images(tmp_path, "1.png")
        rows = [{"image": "1.png", "label": i} for i in range(FILES_PER_EXTENT + 2)]
        source = opened(write_listing(tmp_path / name, rows))
        full, rest = source.extents()
        assert (full.num_inputs, rest.num_inputs) == (FILES_PER_EXTENT, 2)
        assert labels(source) == [str(i) for i in range(FILES_PER_EXTENT + 2)]
        assert len(full.payload) < 500

    def test_a_column_that_is_not_there_is_named_with_those_that_are(self, tmp_path, name):
        write_images(tmp_path, "1.png")
        path = write_listing(tmp_path / name, [{"image": "1.png", "label": 1}])
        with pytest.raises(
            CorpusError, match=r"no column 'img'; it has image, label\. Set corpus\.image_column to one"
        ):
            scanned(opened(path, image_column="img"))
        with pytest.raises(CorpusError, match=r"no column 'mask'.*Set corpus\.mask_column.*or null for none"):
            scanned(opened(path, mask_column="mask"))

    def test_a_listing_without_rows_is_a_mistake(self, tmp_path, name):
        write(tmp_path / name, b"")
        with pytest.raises(CorpusError, match="no rows"):
            scanned(opened(tmp_path / name))


class TestWhere:
    def test_paths_are_below_images_uri(self, tmp_path):
        write_images(tmp_path / "pictures", "a/1.png", "a/2.png")
        rows = [{"image": "a/1.png"}, {"image": "./a/x/../2.png"}, {"image": f"{tmp_path}/pictures/a/1.png"}]
        path = write_listing(tmp_path / "lists" / "l.jsonl", rows)
        source = opened(path, images_uri=str(tmp_path / "pictures"), label_column=None)
        assert [each.data for each in scanned(source)] == [b"a/1.png", b"a/2.png", b"a/1.png"]

    @pytest.mark.parametrize("path", ["../1.png", "a/../../1.png", "/etc/hostname", "zip://x::file:///etc/hostname"])
    def test_what_leaves_images_uri_is_unsafe(self, tmp_path, path):
        write_images(tmp_path, "1.png", "in/a/2.png")
        listing = write_listing(tmp_path / "in" / "l.jsonl", [{"image": path}])
        assert reasons(opened(listing, label_column=None)) == ["unsafe_path"]

    @pytest.mark.parametrize("path", ["/etc/hostname", "file:///etc/hostname", "local:///etc/hostname"])
    def test_a_remote_listing_names_no_file_of_this_machine(self, tmp_path, path):
        write_listing(tmp_path / "l.jsonl", [{"image": path}])
        with web_server(tmp_path) as url:
            assert reasons(opened(f"{url}/l.jsonl", label_column=None)) == ["unsafe_path"]

    def test_whole_urls_are_read_and_shown_without_their_credentials(self, tmp_path):
        write_images(tmp_path / "web", "a b.png", "2.png", "forbidden.png")
        with web_server(tmp_path / "web") as url:
            host = url.removeprefix("http://")
            rows = [
                *({"image": f"http://me:secret@{host}/a%20b.png?signature=secret"}, {"image": "here.png"}),
                *(
                    {"image": f"{url}/gone.png"},
                    {"image": f"{url}/forbidden.png"},
                    {"image": "http://127.0.0.1:1/x.png"},
                ),
            ]
            write_images(tmp_path, "here.png")
            source = opened(write_listing(tmp_path / "l.csv", rows), label_column=None)
            found = scanned(source)
            fetched = list(source.fetch([found[0].locator]))
        assert [each.data for each in found[:2]] == [b"a b.png", b"here.png"]
        assert [each.reason for each in found[2:]] == ["missing", "permission_denied", "missing"]
        assert found[0].location == f"{url}/a%20b.png"
        assert fetched == found[:1]
        assert "secret" not in repr(found)

    def test_urls_that_cannot_be_are_missing_alone(self, tmp_path, no_s3):
        write_images(tmp_path, "1.png")
        urls = [*IMPOSSIBLE_URLS, "az://c/x.png"]
        path = write_listing(tmp_path / "l.jsonl", [{"image": each} for each in ("1.png", *urls)])
        found = scanned(opened(path, label_column=None))
        assert [getattr(each, "reason", None) for each in found] == [None, *["missing"] * len(urls)]
        assert found[-1].location == "az://c/x.png"

    def test_an_object_storage_that_is_not_there_stops_the_scan(self, tmp_path, no_s3):
        path = write_listing(tmp_path / "l.jsonl", [{"image": "s3://bucket/x.png"}])
        with pytest.raises(StorageError, match=r"s3://bucket/x\.png: cannot read"):
            scanned(opened(path, label_column=None))

    def test_a_listing_on_the_web_is_read_with_its_images(self, tmp_path):
        write_images(tmp_path, "a/1 2.png")
        write_listing(tmp_path / "l.csv", [{"image": "a/1 2.png", "label": "cat"}])
        with web_server(tmp_path) as url:
            source = opened(f"{url}/l.csv")
            (found,) = scanned(source)
            assert list(source.fetch([found.locator])) == [found]
        assert (found.data, found.label) == (b"a/1 2.png", "cat")

    def test_rows_of_a_big_remote_listing_are_fetched_one_by_one(self, tmp_path):
        memory = fsspec.filesystem("memory")
        rows = [{"image": f"{i}.png", "caption": "x" * BYTES_PER_REQUEST} for i in range(4)]
        memory.pipe({"/listed/l.jsonl": as_jsonl(rows), **{f"/listed/{i}.png": b"%d" % i for i in range(4)}})
        source = opened("memory://listed/l.jsonl", label_column=None, caption_column="caption")
        inputs = {each.locator: each for each in scanned(source)}
        wanted = [list(inputs)[i] for i in (2, 0)]
        assert list(source.fetch(wanted)) == [inputs[locator] for locator in wanted]
        memory.rm("/listed", recursive=True)

    def test_each_split_may_have_a_listing_of_its_own(self, tmp_path):
        write_images(tmp_path, "1.png", "sub/2.png")
        write_listing(tmp_path / "train.csv", [{"image": "1.png"}])
        write_listing(tmp_path / "sub" / "test.jsonl", [{"image": "2.png"}])
        source = opened(tmp_path, split=PathSplit(train="train.csv", test="sub/*.jsonl"), label_column=None)
        assert [extent.split for extent in source.extents()] == ["train", "test"]
        found = scanned(source)
        assert [each.data for each in found] == [b"1.png", b"sub/2.png"]
        assert {each.data for each in source.fetch([each.locator for each in found])} == {b"1.png", b"sub/2.png"}


class TestRows:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"image": None}, "no_image"),
            ({"image": ""}, "no_image"),
            ({"image": 5}, "no_image"),
            ({}, "no_image"),
            ({"image": "gone.png"}, "missing"),
            ({"image": "pipe.png"}, "not_a_file"),
            ({"image": "x" * 5000}, "missing"),
            ({"image": "1.png/2.png"}, "missing"),
            ({"image": "\ud800.png"}, "unreadable"),
            ({"image": "a\0b.png"}, "unsafe_path"),
            ({"image": "1.png", "mask": "gone.png"}, "missing"),
            ({"image": "1.png", "mask": 5}, "bad_mask"),
            ({"image": "1.png", "boxes": [[1, 2]]}, "bad_annotation"),
            ({"image": "1.png", "polygons": "x"}, "bad_annotation"),
            ({"image": "1.png", "caption": ["x"]}, "bad_annotation"),
            ({"image": "1.png", "caption": "\ud800"}, "bad_annotation"),
            ({"image": "1.png", "label": ["x"]}, "bad_label"),
            ({"image": "1.png", "label": True}, "bad_label"),
            ({"image": "1.png", "label": 1.5}, "bad_label"),
        ],
    )
    def test_a_bad_row_is_rejected_and_its_neighbours_are_not(self, tmp_path, row, reason):
        write_images(tmp_path, "1.png")
        os.mkfifo(tmp_path / "pipe.png")
        good = {"image": "1.png", "label": None, **dict.fromkeys(("mask", "boxes", "polygons", "caption"))}
        path = write_listing(tmp_path / "l.jsonl", [good, row, good])
        assert reasons(opened(path, **ALL_COLUMNS)) == [None, reason, None]

    def test_a_row_without_a_name_is_known_by_its_line(self, tmp_path):
        write_images(tmp_path, "1.png")
        rows = [{"image": "1.png"}] * (FILES_PER_EXTENT + 1) + [{"image": None}]
        found = scanned(opened(write_listing(tmp_path / "l.csv", rows), label_column=None))
        assert found[-1].location == f"{tmp_path}/l.csv#{FILES_PER_EXTENT + 3}"

    @pytest.mark.parametrize(
        ("label", "expected"),
        [(None, None), ("cat", "cat"), (3, "3"), (2.0, "2"), (-1, None), (-7, None)],
    )
    @pytest.mark.parametrize("name", ["l.csv", "l.jsonl"])
    def test_labels_are_names_or_numbers(self, tmp_path, label, expected, name):
        write_images(tmp_path, "1.png")
        path = write_listing(tmp_path / name, [{"image": "1.png", "label": label}])
        assert labels(opened(path)) == [expected]

    @pytest.mark.parametrize("name", ["l.csv", "l.jsonl"])
    def test_with_class_names_a_label_is_one_of_them(self, tmp_path, name):
        write_images(tmp_path, "1.png")
        write(tmp_path / "classes.json", b'["cat", "dog", "0"]')
        given = [0 if name == "l.jsonl" else 1, "dog", "0", 2, 3, "eel", -1]
        path = write_listing(tmp_path / name, [{"image": "1.png", "label": label} for label in given])
        source = opened(path, classes_uri=str(tmp_path / "classes.json"))
        first = "cat" if name == "l.jsonl" else "dog"
        assert source.class_names() == ("cat", "dog", "0")
        assert labels(source) == [first, "dog", "0", "0", "bad_label", "bad_label", None]


class TestFormats:
    def test_marks_empty_lines_and_short_rows_are_no_trouble(self, tmp_path):
        write_images(tmp_path, "1.png", "2.png")
        write(tmp_path / "l.csv", b"\xef\xbb\xbf\r\nimage,label,more\r\n\r\n1.png,\r\n2.png,dog,x,")
        source = opened(tmp_path / "l.csv")
        found = scanned(source)
        assert [(each.data, each.label) for each in found] == [(b"1.png", None), (b"2.png", "dog")]
        assert {each.data for each in source.fetch([each.locator for each in found])} == {b"1.png", b"2.png"}

    @pytest.mark.parametrize(
        ("last", "told"), [("2.png", "bad_row"), ("2.png,", "None"), ("2.png,dog", "dog"), ("2.png,dog,", "dog")]
    )
    def test_a_row_that_ends_before_a_column_that_is_read_is_bad(self, tmp_path, last, told):
        write_images(tmp_path, "1.png", "2.png")
        write(tmp_path / "l.csv", f"image,label,more\n1.png,cat,x\n{last}".encode())
        found = scanned(opened(tmp_path / "l.csv"))
        assert [str(each.label) if isinstance(each, Input) else each.reason for each in found] == ["cat", told]
        if told == "bad_row":
            assert found[-1] == Rejected(location=f"{tmp_path}/l.csv#3", reason="bad_row", size_bytes=5)

    @pytest.mark.parametrize(
        ("header", "row", "label"),
        [
            (",image,,label", "0,1.png,note,", None),
            (",image,,label", "0,1.png,note,cat", "cat"),
            ("id,image,id,label", "0,1.png,7,cat", "cat"),
            ("id,id,image,label,id", "0,1,1.png,cat", "cat"),
        ],
    )
    def test_names_that_nothing_reads_may_be_empty_or_repeated(self, tmp_path, header, row, label):
        write_images(tmp_path, "1.png")
        write(tmp_path / "l.csv", f"{header}\n{row}\n{row}\n".encode())
        source = opened(tmp_path / "l.csv")
        found = scanned(source)
        assert [(each.data, each.label) for each in found] == [(b"1.png", label)] * 2
        assert list(source.fetch([each.locator for each in found])) == found

    def test_a_repeated_name_that_is_read_is_a_mistake(self, tmp_path):
        write_images(tmp_path, "1.png")
        write(tmp_path / "l.csv", b"image,label,image\n1.png,cat,1.png\n")
        with pytest.raises(CorpusError, match=r"l\.csv: 2 columns 'image' in its header, which corpus\.image_column"):
            scanned(opened(tmp_path / "l.csv"))

    def test_only_the_first_line_of_a_file_has_a_mark(self, tmp_path, monkeypatch):
        write_images(tmp_path, "1.png")
        mark, row = b"\xef\xbb\xbf", b'{"image": "1.png"}\n'
        write(tmp_path / "l.jsonl", mark + row + row + mark + row + mark + b"\n" + row)
        for per_extent in (1, 2, 3, 10):
            monkeypatch.setattr(listing, "FILES_PER_EXTENT", per_extent)
            source = opened(tmp_path / "l.jsonl", label_column=None)
            found = scanned(source)
            assert [getattr(each, "reason", None) for each in found] == [None, None, "bad_row", "bad_row", None]
            assert len(found) == sum(extent.num_inputs for extent in source.extents())
            inputs = [each for each in found if isinstance(each, Input)]
            assert list(source.fetch([each.locator for each in inputs])) == inputs

    def test_a_mark_before_an_empty_line_loses_no_row(self, tmp_path):
        write_images(tmp_path, "1.png")
        row = b'{"image": "1.png"}\n'
        write(tmp_path / "l.jsonl", b"\xef\xbb\xbf\n" + row + row)
        assert reasons(opened(tmp_path / "l.jsonl", label_column=None)) == [None, None]

    def test_long_cells_are_read_and_an_unclosed_quote_still_costs_one_line(self, tmp_path):
        write_images(tmp_path, "1.png")
        polygons = json.dumps([TRIANGLE] * 12_000)
        assert len(polygons) > csv.field_size_limit()
        rows = [f'1.png,"{polygons}"', '1.png,"', *[f'1.png,"{polygons}"'] * 3, "1.png,"]
        write(tmp_path / "l.csv", "\n".join(["image,polygons", *rows]).encode())
        limit = csv.field_size_limit()
        found = scanned(opened(tmp_path / "l.csv", label_column=None, polygons_column="polygons"))
        assert [getattr(each, "reason", None) for each in found] == [None, "bad_row", None, None, None, None]
        assert len(found[0].polygons) == 12_000
        assert csv.field_size_limit() == limit

    def test_a_cell_beyond_all_measure_costs_its_line(self, tmp_path):
        write_images(tmp_path, "1.png")
        write(tmp_path / "l.csv", b"image\n" + b"x" * (MAX_CELL_CHARACTERS + 1) + b"\n1.png\n")
        assert reasons(opened(tmp_path / "l.csv", label_column=None)) == ["bad_row", None]

    def test_a_column_may_come_late_in_jsonl(self, tmp_path):
        write_images(tmp_path, "1.png")
        path = write_listing(tmp_path / "l.jsonl", [{"image": "1.png"}, {"image": "1.png", "label": "cat"}])
        assert labels(opened(path)) == [None, "cat"]

    @pytest.mark.parametrize(
        ("name", "data", "expected"),
        [
            ("l.jsonl", b'{"image": "1.png"}\n[1]\n{"image": "1.png"}', "ok bad:2 ok"),
            ("l.jsonl", b'{"image": "1.png"}\n\n{"image"\n{"image": "1.png"}', "ok bad:3 ok"),
            ("l.jsonl", b"[" * 100_000 + b'\n{"image": "1.png"}', "bad:1 ok"),
            ("l.jsonl", b'{"image": "\xe9"}\n{"image": "1.png"}', "bad:1 ok"),
            ("l.csv", b'image,label\n1.png,"cat\n1.png,dog\n1.png,"x"\n', "bad:2 ok ok"),
            ("l.csv", b'image,label\n1.png,dog\n1.png,"cat\n', "ok bad:3"),
            ("l.csv", b'image,label\n"1.png"x,dog\n1.png,cat\n', "bad:2 ok"),
            ("l.csv", b'image,label\n1.png,"a\nb"\n1.png,"' + b"\n" * 300 + b'"\n1.png,c', "ok bad:4 bad:304 ok"),
            ("l.csv", b"image,label\n1.png,caf\xe9\n1.png,cat\n", "bad:2 ok"),
            ("l.csv", b"image,label\n1.png,a,b\n1.png,cat\n", "bad:2 ok"),
            ("l.tsv", b"image\tlabel\n1.png\ta\tb\n1.png\ta,b\n", "bad:2 ok"),
        ],
    )
    def test_a_line_that_is_not_of_the_format_costs_that_line_alone(self, tmp_path, name, data, expected):
        write_images(tmp_path, "1.png")
        write(tmp_path / name, data)
        source = opened(tmp_path / name, label_column=None)
        found = scanned(source)
        bad = [each for each in found if isinstance(each, Rejected)]
        assert all(each.reason == "bad_row" and each.size_bytes > 0 for each in bad)
        told = [f"bad:{each.location.rpartition('#')[2]}" if each in bad else "ok" for each in found]
        assert " ".join(told) == expected
        locators = [each.locator for each in found if isinstance(each, Input)]
        assert [each.data for each in source.fetch(locators)] == [b"1.png"] * len(locators)

    @pytest.mark.parametrize("per_extent", [1, 2, 3, 7])
    def test_bad_lines_are_the_same_however_extents_are_cut(self, tmp_path, monkeypatch, per_extent):
        write_images(tmp_path, "1.png")
        lines = ["image,label", '1.png,"a', "1.png,b", "1.png,c", '1.png,"d', "1.png,e", '1.png,f"', '1.png,"g', "h"]
        write(tmp_path / "l.csv", "\n".join(lines).encode())
        expected = reasons(opened(tmp_path / "l.csv"))
        assert "bad_row" in expected
        assert None in expected
        monkeypatch.setattr(listing, "FILES_PER_EXTENT", per_extent)
        assert reasons(opened(tmp_path / "l.csv")) == expected

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("l.jsonl", b"[1]\n[2]\n", r"l\.jsonl, line 1: expected a JSON object .* got \[1\]"),
            ("l.csv", b'image\n"1.png', r"l\.csv, line 2: cannot be read as CSV \(unexpected end"),
            ("l.csv", "image\n1.png".encode("utf-16"), r"line 1: not UTF-8"),
        ],
    )
    def test_where_no_line_is_of_the_format_the_first_is_named(self, tmp_path, name, data, message):
        write(tmp_path / name, data)
        with pytest.raises(CorpusError, match=message):
            scanned(opened(tmp_path / name, label_column=None))

    def test_another_suffix_is_refused_at_once(self, tmp_path):
        with pytest.raises(CorpusError, match=r"l\.json: no listing by its name; expected one ending in \.csv"):
            opened(tmp_path / "l.json")

    def test_a_folder_is_no_listing(self, tmp_path):
        for name in ("empty.csv", "full.csv"):
            (tmp_path / name).mkdir()
        write_images(tmp_path / "full.csv", "1.png")
        for name in ("empty.csv", "full.csv"):
            with pytest.raises(CorpusError, match=r"\.csv: is a folder"):
                scanned(opened(tmp_path / name))

    def test_a_pipe_is_no_listing(self, tmp_path):
        os.mkfifo(tmp_path / "l.csv")
        with pytest.raises(StorageError, match=r"l\.csv: cannot be read: not_a_file"):
            scanned(opened(tmp_path / "l.csv"))

    def test_a_listing_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(CorpusError, match=r"l\.csv: not found"):
            scanned(opened(tmp_path / "l.csv"))


class TestSeveral:
    SPLIT = PathSplit(train="train*", test="test.csv")

    def written(self, tmp_path: Path, **files: bytes) -> ListingSource:
        """A good listing of two rows for training, a test listing, and others: `train_csv` is train.csv."""
        write_images(tmp_path, "1.png", "2.png")
        write(tmp_path / "train0.csv", b"image,label\n1.png,a\n2.png,b\n")
        write(tmp_path / "test.csv", b"image,label\n1.png,a\n")
        for name, data in files.items():
            write(tmp_path / name.replace("_", "."), data)
        return opened(tmp_path, split=self.SPLIT)

    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("train1_csv", b"file,label\n1.png,a\n", "other_columns"),
            ("train1_csv", b"image,label,label\n1.png,a,b\n", "other_columns"),
            ("train1_jsonl", b'{"image": "1.png"}\n', "other_columns"),
            ("train1_csv", b"", "empty"),
            ("train1_csv", b"image,label\n", "empty"),
            ("train1_csv", "image,label\n1.png,a\n".encode("utf-16"), "bad_row"),
            ("train1_jsonl", b"[1]\n[2]\n", "bad_row"),
            ("train1_txt", b"about this", "other_type"),
        ],
    )
    def test_one_that_cannot_be_used_is_rejected_alone(self, tmp_path, name, data, reason):
        source = self.written(tmp_path, **{name: data})
        assert [extent.split for extent in source.extents()] == ["train", "train", "test"]
        assert scanned(source)[2] == Rejected(location=name.replace("_", "."), reason=reason, size_bytes=len(data))
        assert labels(source) == ["a", "b", reason, "a"]

    def test_one_that_cannot_be_read_is_rejected_alone(self, tmp_path):
        source = self.written(tmp_path)
        (tmp_path / "train1.csv").symlink_to("nowhere")
        os.mkfifo(tmp_path / "train2.csv")
        assert labels(source) == ["a", "b", "missing", "not_a_file", "a"]

    def test_where_a_split_has_no_other_its_mistake_is_named(self, tmp_path):
        source = self.written(tmp_path, train0_csv=b"file,label\n1.png,a\n", train1_csv=b"")
        with pytest.raises(CorpusError, match=r"train0\.csv: no column 'image'"):
            scanned(source)
        source = self.written(tmp_path, test_csv=b"file,label\n1.png,a\n")
        with pytest.raises(CorpusError, match=r"test\.csv: no column 'image'"):
            scanned(source)
        (tmp_path / "train0.csv").unlink()
        (tmp_path / "train1.csv").unlink()
        os.mkfifo(tmp_path / "train2.csv")
        with pytest.raises(StorageError, match=r"none of the listings can be read: train2\.csv \(not_a_file\)"):
            scanned(source)


class TestChange:
    def test_the_digest_of_a_sound_listing_stays(self, tmp_path):
        memory = fsspec.filesystem("memory")
        memory.pipe("/digest/l.csv", b"\xef\xbb\xbfimage,label,\n1.png,cat,x\n\n2.png,,\n")
        (extent,) = opened("memory://digest/l.csv").extents()
        assert extent.digest == "8ae768b0a58a6d7c562e8cd7f9a3ca1a84462b8293187d0e5d1b5070fa7789fb"
        memory.rm("/digest", recursive=True)

    def test_the_digest_changes_with_a_row_or_a_local_image(self, tmp_path):
        write_images(tmp_path, "1.png")
        path = write_listing(tmp_path / "l.csv", [{"image": "1.png", "label": "cat"}])

        def digest() -> str:
            (extent,) = opened(path).extents()
            return extent.digest

        first = digest()
        assert digest() == first
        write(tmp_path / "1.png", b"rewritten")
        second = digest()
        write_listing(path, [{"image": "1.png", "label": "dog"}])
        assert len({first, second, digest()}) == 3

    def test_a_fetch_from_a_changed_listing_says_so(self, tmp_path):
        write_images(tmp_path, "1.png", "2.png")
        path = write_listing(tmp_path / "l.csv", [{"image": "1.png"}, {"image": "2.png"}])
        source = opened(path, label_column=None)
        locators = [each.locator for each in scanned(source)]
        write_listing(path, [{"image": "1.png"}])
        with pytest.raises(CorpusError, match=r"l\.csv: changed since it was scanned"):
            list(source.fetch(locators))
        (tmp_path / "1.png").unlink()
        with pytest.raises(CorpusError, match=r"1\.png: missing, though it was there"):
            list(source.fetch(locators[:1]))


def test_labels_as_spreadsheets_and_pandas_write_them(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "1.png", "2.png", "3.png")
    (tmp_path / "l.csv").write_text("image,label\n0.png, cat\n1.png,cat \n2.png,1.0\n3.png,2.50\n")
    assert labels(opened(tmp_path / "l.csv")) == ["cat", "cat", "1", "2.50"]
