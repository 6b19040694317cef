"""Real sets give the same samples, bit for bit, whichever kind of source they come through."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from kd_ray.config.corpus import Corpus
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.images.masks import decode_mask
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.corpus.source import SPLITS
from tests.support.corpus_files import write
from tests.support.shared_data import shared_data

Images = dict[str, tuple[str | None, bytes]]  # name: class, bytes


def _cifar() -> Images:
    table = pq.read_table(shared_data("cifar10/test.parquet")).slice(0, 600)
    classes = json.loads(shared_data("cifar10/classes.json").read_bytes())
    found = {}
    for row in table.to_pylist():
        image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        found[Path(row["path"]).name.replace(".", "-", 1).replace("-png", ".png")] = (classes[row["label"]], image)
    return found


def _camvid() -> Images:
    folder = shared_data("camvid/val/images")
    return {path.name: (None, path.read_bytes()) for path in sorted(folder.iterdir())}


def _photos() -> Images:
    folder = shared_data("photos/exif_orientation")
    return {path.name: (None, path.read_bytes()) for path in sorted(folder.glob("*.jp*g"))}


def _as_folder(images: Images, root: Path) -> dict[str, Any]:
    for name, (label, data) in images.items():
        write(root / (label or "") / name, data)
    return {"kind": "folder", "uri": str(root)}


def _as_parquet(images: Images, root: Path) -> dict[str, Any]:
    root.mkdir()
    rows = [{"image": {"bytes": data, "path": name}, "label": label} for name, (label, data) in images.items()]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / "rows.parquet", row_group_size=100)
    return {"kind": "parquet", "uri": str(root)}


def _as_tars(images: Images, root: Path) -> dict[str, Any]:
    root.mkdir()
    names = list(images)
    for number in range(2):
        with tarfile.open(root / f"{number}.tar", "w") as tar:
            for name in names[number::2]:
                label, data = images[name]
                _add(tar, name, data)
                if label is not None:
                    _add(tar, f"{name.split('.', 1)[0]}.cls", label.encode())
    return {"kind": "webdataset", "uri": str(root)}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _as_csv(images: Images, root: Path) -> dict[str, Any]:
    for name, (_, data) in images.items():
        write(root / "all" / name, data)
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([f"all/{name}", label or ""] for name, (label, _) in images.items())
    labelled = any(label for label, _ in images.values())
    return {"kind": "listing", "uri": str(root / "list.csv"), "label_column": "label" if labelled else None}


WAYS: dict[str, Callable[[Images, Path], dict[str, Any]]] = {
    "folder": _as_folder,
    "parquet": _as_parquet,
    "webdataset": _as_tars,
    "listing": _as_csv,
}


def _packed(section: dict[str, Any], packed: Path) -> PackedCorpus:
    settings = {"packed_uri": str(packed), "row_group_size": 16, "split": {"kind": "hash", "test_fraction": 0.3}}
    pack(TypeAdapter(Corpus).validate_python({**section, **settings}))
    return open_corpus(str(packed))


def _samples(corpus: PackedCorpus) -> Iterator[tuple[int, str, str | None, bytes]]:
    """(id, split, class, bytes) of every sample."""
    for split in SPLITS:
        for shard in corpus.shards(split):
            rows = corpus.read_rows(shard.name, 0, len(shard.rows_per_group))
            for sample_id, label, image in zip(
                rows.sample_ids.tolist(), rows.labels.tolist(), rows.images, strict=True
            ):
                yield sample_id, split, None if label < 0 else corpus.classes[label], image


@pytest.mark.parametrize("images_of", [_cifar, _camvid, _photos], ids=["cifar10", "camvid", "exif"])
def test_four_kinds_of_source_give_the_same_samples(images_of: Callable[[], Images], tmp_path: Path) -> None:
    images = images_of()
    distinct = {hashlib.sha256(data).digest(): (label, data) for label, data in images.values()}
    expected = sorted((int.from_bytes(sha256[:8], "big"), *both) for sha256, both in distinct.items())
    splits = set()
    for kind, make in WAYS.items():
        corpus = _packed(make(images, tmp_path / kind), tmp_path / f"packed-{kind}")
        found = sorted(_samples(corpus), key=lambda sample: sample[0])
        assert [(sample_id, label, image) for sample_id, _, label, image in found] == expected, kind
        splits.add(tuple(split for _, split, _, _ in found))
    assert len(splits) == 1, "the split is a matter of content alone"


def test_camvid_pairs_keep_their_masks(tmp_path: Path) -> None:
    root = shared_data("camvid")
    section = {"kind": "segmentation", "uri": str(root)}
    settings = {"packed_uri": str(tmp_path / "packed"), "split": {"kind": "paths", "val": "val"}}
    result = pack(TypeAdapter(Corpus).validate_python({**section, **settings}))
    assert (result.num_packed, result.left_out) == (184 + 51 + 117, {})
    corpus = open_corpus(str(tmp_path / "packed"))
    assert [corpus.num_samples(split) for split in SPLITS] == [184, 51, 117]
    for split in SPLITS:
        pairs = {
            path.read_bytes(): (root / split / "masks" / f"{path.stem}.png").read_bytes()
            for path in (root / split / "images").iterdir()
        }
        for shard in corpus.shards(split):
            rows = corpus.read_rows(shard.name, 0, len(shard.rows_per_group), columns=["image", "mask"])
            assert all(pairs[image] == mask for image, mask in zip(rows.images, rows.masks, strict=True))
    first = corpus.read_rows("val-00000", 0, 1, columns=["image", "mask"])
    mask_HW = decode_mask(first.masks[0] or b"")
    assert mask_HW.shape == decode(first.images[0]).shape[:2]
    assert set(np.unique(mask_HW).tolist()) <= set(range(12))


def test_exif_photographs_are_the_same_scene_upright(tmp_path: Path) -> None:
    corpus = _packed(_as_folder(_photos(), tmp_path / "src"), tmp_path / "packed")
    images = [decode(image).astype(np.int16) for _, _, _, image in _samples(corpus)]
    sizes = {image.shape for image in images}
    assert len(sizes) == 1
    for image in images[1:]:
        assert np.abs(image - images[0]).mean() < 6  # each was compressed by itself
