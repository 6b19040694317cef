"""What a recipe may ask of a packing: filters, other sizes, other classes, splits, several sources."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter

from kd_ray.config.corpus import Corpus, HashSplit, NativeResolutionFilter, Reencode
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.images.masks import decode_mask
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import PackResult, pack
from kd_ray.corpus.packing.scan import split_of
from kd_ray.corpus.source import SPLITS
from kd_ray.errors import CorpusError
from tests.support.corpus_files import encoded, folder, noise, png, write, write_classes

EVERYTHING = ["label", "size_px", "image", "mask", "boxes", "polygons", "caption"]


def packed(section: dict[str, Any], tmp_path: Path, **settings: Any) -> tuple[PackResult, PackedCorpus]:
    values = {"packed_uri": str(tmp_path / "packed"), "row_group_size": 4, **section, **settings}
    result = pack(TypeAdapter(Corpus).validate_python(values))
    return result, open_corpus(str(tmp_path / "packed"))


def rows_of(corpus: PackedCorpus) -> list[dict[str, Any]]:
    """Every sample of every split."""
    found = []
    for split in SPLITS:
        for shard in corpus.shards(split):
            rows = corpus.read_rows(shard.name, 0, len(shard.rows_per_group), columns=EVERYTHING)  # type: ignore[arg-type]
            for i, image in enumerate(rows.images):
                found.append(
                    {
                        "image": image,
                        "source": shard.source,
                        "label": int(rows.labels[i]),
                        "size_px": tuple(rows.sizes_px[i].tolist()),
                        "mask": rows.masks[i],
                        "boxes": rows.boxes[i],
                        "polygons": rows.polygons[i],
                        "caption": rows.captions[i],
                    }
                )
    return found


class TestFilter:
    @pytest.mark.parametrize(
        ("wanted", "kept"),
        [
            ({"min_short_side": 11}, {(20, 20), (40, 11)}),
            ({"min_long_side": 40}, {(40, 11), (40, 10)}),
            ({"min_area": 400}, {(20, 20), (40, 11), (40, 10)}),
            ({"max_aspect_ratio": 3.7}, {(20, 20), (5, 5), (40, 11)}),
        ],
    )
    def test_images_are_filtered_by_their_own_size(
        self, tmp_path: Path, wanted: dict[str, Any], kept: set[tuple[int, int]]
    ) -> None:
        for height, width in [(20, 20), (5, 5), (40, 11), (40, 10)]:
            write(
                tmp_path / "src" / f"{height}x{width}.png", encoded(noise(height * width, height=height, width=width))
            )
        result = pack(folder(tmp_path, native_resolution_filter=NativeResolutionFilter(**wanted), max_bad_fraction=0.0))
        assert {row["size_px"] for row in rows_of(open_corpus(str(tmp_path / "packed")))} == kept
        assert result.left_out == {"filtered": 4 - len(kept)}

    def test_sides_are_those_of_the_upright_image(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        write(tmp_path / "src" / "a.jpg", encoded(noise(1, height=16, width=32), "JPEG", exif=exif))
        pack(folder(tmp_path))
        assert rows_of(open_corpus(str(tmp_path / "packed")))[0]["size_px"] == (32, 16)


class TestReencoding:
    def test_large_images_shrink_with_their_masks_and_small_ones_keep_their_bytes(self, tmp_path: Path) -> None:
        large, small = encoded(noise(1, height=80, width=40)), encoded(noise(2, height=30, width=20))
        masks = {"large": np.arange(3200, dtype=np.uint8).reshape(80, 40) % 7, "small": np.zeros((30, 20), np.uint8)}
        for name, image in (("large", large), ("small", small)):
            write(tmp_path / "src" / "images" / f"{name}.png", image)
            write(tmp_path / "src" / "masks" / f"{name}.png", encoded(Image.fromarray(masks[name])))
        settings = Reencode(longest_side_px=40, format="png")
        _, corpus = packed(
            {"kind": "segmentation", "uri": str(tmp_path / "src")}, tmp_path, reencode=settings.model_dump()
        )
        by_size = {row["size_px"]: row for row in rows_of(corpus)}
        assert set(by_size) == {(40, 20), (30, 20)}
        assert by_size[30, 20]["image"] == small
        assert decode(by_size[40, 20]["image"]).shape == (40, 20, 3)
        assert decode_mask(by_size[40, 20]["mask"]).shape == (40, 20)
        ids = {int(i) for split in SPLITS for i in corpus.members(split).sample_ids}
        _, plain = packed(
            {"kind": "segmentation", "uri": str(tmp_path / "src")}, tmp_path, packed_uri=str(tmp_path / "packed2")
        )
        plain = open_corpus(str(tmp_path / "packed2"))
        assert ids == {int(i) for split in SPLITS for i in plain.members(split).sample_ids}

    @pytest.mark.parametrize(("written", "longest"), [("webp", 16_383), ("jpeg", 65_500)])
    def test_what_the_format_cannot_hold_is_quarantined(self, tmp_path: Path, written: str, longest: int) -> None:
        for width in (2 * longest, 2 * longest + 2):
            write(tmp_path / "src" / f"{width}.png", encoded(Image.new("L", (width, 2))))
        settings = Reencode.model_validate({"shortest_side_px": 1, "format": written})
        result = pack(folder(tmp_path, reencode=settings, max_bad_fraction=1.0))
        assert (result.num_packed, result.left_out) == (1, {"too_large": 1})
        assert [row["size_px"] for row in rows_of(open_corpus(str(tmp_path / "packed")))] == [(1, longest)]

    def test_it_cannot_be_changed_afterwards(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "src", per_class=4)
        pack(folder(tmp_path))
        with pytest.raises(CorpusError, match=r"corpus\.reencode None, this recipe has"):
            pack(folder(tmp_path, reencode=Reencode(longest_side_px=4)))


class TestLabelMap:
    def test_classes_are_merged_and_taken_away(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "src", per_class=5, classes="abc")
        pack(folder(tmp_path, label_map={"a": "letter", "b": "letter", "c": None}))
        corpus = open_corpus(str(tmp_path / "packed"))
        assert corpus.classes == ("letter",)
        assert sorted(row["label"] for row in rows_of(corpus)) == [-1] * 5 + [0] * 10

    def test_copies_that_agree_after_the_map_are_no_conflict(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "src", per_class=5)
        write(tmp_path / "src" / "b" / "copy.png", png(0))
        result = pack(folder(tmp_path, label_map={"a": "x", "b": "x"}))
        assert (result.num_duplicates, result.left_out) == (1, {})

    def test_the_classes_stay_when_all_files_are_other_ones(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "src", per_class=5)
        pack(folder(tmp_path, label_map={"a": "b", "b": "a"}))
        before = open_corpus(str(tmp_path / "packed"))
        shutil.rmtree(tmp_path / "src")
        write_classes(tmp_path / "src", per_class=5, first_seed=500)
        pack(folder(tmp_path, label_map={"a": "b", "b": "a"}))
        after = open_corpus(str(tmp_path / "packed"))
        assert after.classes == before.classes
        labels = [row["label"] for row in rows_of(after)]
        assert sorted(labels) == [0] * 10 + [1] * 10

    def test_an_unknown_class_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "src", per_class=5)
        with pytest.raises(CorpusError, match="label_map names 'q'"):
            pack(folder(tmp_path, label_map={"q": "x"}))
        assert not (tmp_path / "packed" / "corpus.json").exists()


class TestSplits:
    def test_three_splits_by_content_and_test_stays_whatever_val_is(self) -> None:
        drawn = [i.to_bytes(32, "big") for i in range(4000)]
        without, with_val = HashSplit(test_fraction=0.2), HashSplit(test_fraction=0.2, val_fraction=0.1)
        assert {s for s in drawn if split_of(s, without) == "test"} == {
            s for s in drawn if split_of(s, with_val) == "test"
        }
        # 5 standard deviations of a binomial with n = 4000, p = 0.1
        assert abs(sum(split_of(s, with_val) == "val" for s in drawn) - 400) < 95

    def test_they_survive_packing_anew(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "src", per_class=20)
        split = HashSplit(test_fraction=0.3, val_fraction=0.3)
        for name, seed in (("one", 0), ("two", 9)):
            pack(folder(tmp_path, packed=name, split=split, seed=seed, row_group_size=1 + seed))
        for part in SPLITS:
            one, two = (set(open_corpus(str(tmp_path / name)).members(part).sample_ids) for name in ("one", "two"))
            assert one == two
            assert one


class TestMixture:
    def _write(self, tmp_path: Path) -> dict[str, Any]:
        write_classes(tmp_path / "photos", per_class=12)
        table = {"image": [png(500 + i) for i in range(9)] + [png(0)], "label": ["a"] * 5 + ["z"] * 4 + ["a"]}
        pq.write_table(pa.table(table), tmp_path / "rows.parquet")
        return {
            "kind": "mixture",
            "sources": {
                "photos": {"kind": "folder", "uri": str(tmp_path / "photos"), "scale_factor": 2.0},
                "rows": {"kind": "parquet", "uri": str(tmp_path / "rows.parquet")},
            },
        }

    def test_every_shard_is_of_one_source_and_the_first_source_keeps_a_common_image(self, tmp_path: Path) -> None:
        result, corpus = packed(self._write(tmp_path), tmp_path)
        assert (result.num_packed, result.num_duplicates) == (33, 1)
        assert corpus.classes == ("a", "b", "z")
        by_source: dict[str, set[bytes]] = {"photos": set(), "rows": set()}
        for row in rows_of(corpus):
            by_source[row["source"]].add(row["image"])
        assert by_source == {"photos": {png(i) for i in range(24)}, "rows": {png(500 + i) for i in range(9)}}

    def test_the_quarantine_names_the_source(self, tmp_path: Path) -> None:
        section = self._write(tmp_path)
        write(tmp_path / "photos" / "a" / "bad.png", b"no image")
        result, _ = packed(section, tmp_path, max_bad_fraction=0.5)
        assert result.quarantine_uri is not None
        assert [row["source"] for row in pq.read_table(result.quarantine_uri).to_pylist()] == ["photos:a/bad.png"]

    def test_another_ratio_is_the_same_corpus(self, tmp_path: Path) -> None:
        section = self._write(tmp_path)
        first, _ = packed(section, tmp_path)
        section["sources"]["rows"]["scale_factor"] = 0.1
        again, _ = packed(section, tmp_path)
        assert again.already_packed
        assert again.corpus_id == first.corpus_id

    def test_a_source_that_is_added_appends(self, tmp_path: Path) -> None:
        section = self._write(tmp_path)
        first, _ = packed(section, tmp_path)
        before = {path: path.read_bytes() for path in (tmp_path / "packed" / "shards").iterdir()}
        write_classes(tmp_path / "more", per_class=6, first_seed=900)
        section["sources"]["more"] = {"kind": "folder", "uri": str(tmp_path / "more")}
        second, corpus = packed(section, tmp_path)
        assert (second.corpus_id, second.num_new) == (first.corpus_id, 12)
        assert {path: path.read_bytes() for path in before} == before
        assert sum(row["source"] == "more" for row in rows_of(corpus)) == 12


class TestAnnotations:
    def test_boxes_polygons_and_captions_come_back_as_fractions(self, tmp_path: Path) -> None:
        write(tmp_path / "src" / "0.png", encoded(noise(1, height=20, width=40)))
        write(tmp_path / "src" / "1.png", encoded(noise(2, height=20, width=40)))
        rows = [
            {
                "image": "0.png",
                "boxes": [{"label": 3, "box": [10, 5, 20, 20]}, [0, 0, 40, 10]],
                "polygons": [{"label": 1, "points": [0, 0, 40, 0, 20, 20]}],
                "caption": "zwei Kästen",
            },
            {"image": "1.png"},
        ]
        (tmp_path / "src" / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        columns = {"label_column": None, "boxes_column": "boxes", "polygons_column": "polygons"}
        section = {"kind": "listing", "uri": str(tmp_path / "src" / "list.jsonl"), "caption_column": "caption"}
        _, corpus = packed({**section, **columns}, tmp_path)
        with_some, without = sorted(rows_of(corpus), key=lambda row: row["caption"] is None)
        assert with_some["boxes"] == [
            {"label": 3, "corners": [0.25, 0.25, 0.5, 1.0]},
            {"label": None, "corners": [0.0, 0.0, 1.0, 0.5]},
        ]
        assert with_some["polygons"] == [{"label": 1, "points": [0.0, 0.0, 1.0, 0.0, 0.5, 1.0]}]
        assert with_some["caption"] == "zwei Kästen"
        assert [without[name] for name in ("boxes", "polygons", "caption", "mask")] == [None] * 4

    def test_a_mask_that_changes_after_packing_is_refused(self, tmp_path: Path) -> None:
        for number in range(3):
            write(tmp_path / "src" / "images" / f"{number}.png", png(number))
            write(tmp_path / "src" / "masks" / f"{number}.png", encoded(Image.fromarray(np.ones((6, 5), np.uint8))))
        section = {"kind": "segmentation", "uri": str(tmp_path / "src")}
        packed(section, tmp_path)
        write(tmp_path / "src" / "masks" / "0.png", encoded(Image.fromarray(np.full((6, 5), 2, np.uint8))))
        with pytest.raises(CorpusError, match=r"masks, boxes or polygons have changed.*corpus\.overrides_uri"):
            packed(section, tmp_path)

    def test_a_copy_with_a_caption_stays(self, tmp_path: Path) -> None:
        for name in ("0.png", "1.png"):
            write(tmp_path / "src" / name, png(0))
        (tmp_path / "src" / "list.csv").write_text("image,caption\n0.png,\n1.png,a cat\n")
        section = {"kind": "listing", "uri": str(tmp_path / "src" / "list.csv"), "caption_column": "caption"}
        result, corpus = packed({**section, "label_column": None}, tmp_path)
        assert result.num_duplicates == 1
        assert [row["caption"] for row in rows_of(corpus)] == ["a cat"]

    def test_a_mask_of_another_size_or_kind_is_quarantined(self, tmp_path: Path) -> None:
        for name, mask in (
            ("good", np.zeros((6, 5), np.uint8)),
            ("size", np.zeros((5, 6), np.uint8)),
            ("kind", noise(9)),
        ):
            write(tmp_path / "src" / "images" / f"{name}.png", png(len(name) + ord(name[0])))
            write(tmp_path / "src" / "masks" / f"{name}.png", encoded(Image.fromarray(mask)))
        result, corpus = packed({"kind": "segmentation", "uri": str(tmp_path / "src")}, tmp_path, max_bad_fraction=1.0)
        assert result.left_out == {"bad_mask": 1, "mask_size": 1}
        assert len(rows_of(corpus)) == 1
