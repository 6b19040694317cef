"""A cache that has been damaged after a run: `kd-ray cache repair` mends it, and the same run goes on from it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import FinishedRun
from tests.support.processes import ROOT, SMALL, ray_folder, run

pytestmark = pytest.mark.ray

KD_RAY = [sys.executable, "-c", "from kd_ray.cli import main; main()"]
UNIT_VIEWS = 64 * 2  # samples of a row group, by views


def test_a_flipped_byte_is_found_and_repaired(finished: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    cache = str(out / "cache")
    damaged = sorted(out.glob("cache/targets/*/logits-*/units/train-*/*/values/c/0/0/0"))[0]
    data = bytearray(damaged.read_bytes())
    data[7] ^= 1
    damaged.write_bytes(data)
    folded = sorted(out.glob("cache/*/**/manifest/records/*.parquet"))
    assert len(folded) == len(list(out.glob("cache/**/commits"))), "each collection is folded at the end of extraction"
    part = folded[0]
    part.write_bytes(part.read_bytes()[1:])
    found = run([*KD_RAY, "cache", "verify", cache])
    assert found.returncode == 1, found.stdout + found.stderr
    assert str(damaged) in found.stdout
    assert str(part) in found.stdout

    with ray_folder() as ray:
        recipe = [str(ROOT / "conf" / "quickstart.yaml"), f"out={out}", f"cluster.temp_dir={ray}", *SMALL]
        repaired = run([*KD_RAY, "cache", "repair", *recipe, "--json"])
        assert repaired.returncode == 0, repaired.stdout + repaired.stderr
        told = json.loads(repaired.stdout)
        ((units),) = told["repaired"].values()
        assert list(units.values()) == [1]
        assert told["findings"] == []
        assert told["parts_folded_again"] == [str(part)]
        assert told["teacher_forwards"] == UNIT_VIEWS
        again = run([*KD_RAY, "cache", "repair", *recipe])
        assert again.returncode == 0, again.stdout + again.stderr
        assert "nothing to repair" in again.stdout
    assert run([*KD_RAY, "cache", "verify", cache]).returncode == 0
