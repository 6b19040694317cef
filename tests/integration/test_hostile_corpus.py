"""A folder full of hostile files is packed to the end, each of them in quarantine under its right reason."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import pack
from tests.support.corpus_files import folder, sha256_of, write_classes
from tests.support.hostile import hostile_files, unreadable_files


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


AS_A_PLAIN_USER = """
import json, os, sys
import pyarrow.parquet as pq
from pathlib import Path
from kd_ray.config.corpus import FolderCorpus
from kd_ray.corpus.packing.pack import pack

if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
packed = sys.argv[2]
result = pack(FolderCorpus(kind="folder", uri=sys.argv[1], packed_uri=packed, max_bad_fraction=0.5))
rows = [row for table in Path(packed, "quarantine").iterdir() for row in pq.read_table(table).to_pylist()]
print(json.dumps([result.num_packed, {row["source"]: row["reason"] for row in rows}]))
"""


def test_files_and_folders_without_permission_are_in_quarantine_and_the_rest_is_packed() -> None:
    """As a plain user: root itself may read everything."""
    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        source, packed = Path(name, "src"), Path(name, "packed")
        write_classes(source, per_class=6)
        expected = unreadable_files(source)
        packed.mkdir(mode=0o777)
        packed.chmod(0o777)
        command = [sys.executable, "-c", AS_A_PLAIN_USER, str(source), str(packed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "Operation not permitted" in done.stderr:
            pytest.skip("cannot become a plain user here")
        assert done.returncode == 0, done.stderr
        num_packed, found = json.loads(done.stdout)
        (source / "b/locked").chmod(0o755)
    assert num_packed == 12
    assert found == expected
