"""A folder full of hostile files is packed to the end, each of them in quarantine under its right reason."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import pack
from tests.support.corpus_files import folder, sha256_of, write_classes
from tests.support.hostile import hostile_files


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of odd files; packing goes on
def test_every_hostile_file_is_in_quarantine_under_its_reason(tmp_path: Path) -> None:
    write_classes(tmp_path / "src", per_class=10)
    expected = hostile_files(tmp_path / "src")
    rejected = {location: reason for location, reason in expected.items() if reason is not None}
    assert len(rejected) >= 40
    config = folder(tmp_path, max_bad_fraction=1.0)
    result = pack(config)
    (table,) = (tmp_path / "packed" / "quarantine").iterdir()
    rows = pq.read_table(table).to_pylist()
    assert {row["source"]: row["reason"] for row in rows} == rejected
    assert len(rows) == len(rejected) == sum(result.left_out.values())
    sizes = {row["source"]: row["bytes"] for row in rows}
    regular = [name for name in rejected if (tmp_path / "src" / name).is_file()]
    assert all(sizes[name] == (tmp_path / "src" / name).stat().st_size for name in regular)
    corpus = open_corpus(config.packed_uri)
    packed = {row.tobytes() for split in ("train", "test") for row in corpus.members(split).sha256}
    accepted = [name for name, reason in expected.items() if reason is None]
    assert all(sha256_of(tmp_path / "src" / name) in packed for name in accepted)
    assert len(packed) == result.num_packed
