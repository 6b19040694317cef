"""Packing on Ray is killed twenty times at random points and started again: the same bytes as in one calm process."""

import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from kd_ray.config.corpus import Corpus
from kd_ray.corpus.packing.pack import pack
from tests.support.processes import ROOT, kd_ray, kill_all_naming, ray_folder, run, start, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

NUM_KILLS = 20
NUM_IMAGES = 6000
SETTINGS = {"row_group_size": 4, "shard_row_groups": 4, "split": {"kind": "hash", "test_fraction": 0.2}}


def write_images(root: Path) -> None:
    for number in range(NUM_IMAGES):
        path = root / f"class{number % 4}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())


def kept(packed: Path) -> dict[str, bytes]:
    """All files but the notes of a packing under way and what a killed writer had not renamed yet."""
    return {
        path.relative_to(packed).as_posix(): path.read_bytes()
        for path in packed.rglob("*")
        if path.is_file() and path.suffix != ".partial" and path.relative_to(packed).parts[0] not in ("scans", "plans")
    }


def test_killed_twenty_times(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    section = {"kind": "folder", "uri": str(tmp_path / "images"), "packed_uri": str(tmp_path / "calm"), **SETTINGS}
    pack(TypeAdapter(Corpus).validate_python(section))
    calm = kept(tmp_path / "calm")

    packed = tmp_path / "out" / "corpus"
    chance = random.Random(3)
    kills = 0
    with ray_folder() as ray:
        command = kd_ray(
            str(ROOT / "conf" / "folder.yaml"),
            f"out={tmp_path / 'out'}",
            f"corpus.uri={tmp_path / 'images'}",
            f"cluster.temp_dir={ray}",
            *(f"corpus.{key}={value}" for key, value in SETTINGS.items() if key != "split"),
            "--stages",
            "pack",
        )
        while kills < NUM_KILLS:
            before = len(list(packed.rglob("*")))
            process = start(command, log=tmp_path / "log")
            wait_until(
                lambda seen=before, running=process: len(list(packed.rglob("*"))) > seen or running.poll() is not None,
                timeout_s=120,
                what="progress",
            )
            time.sleep(chance.uniform(0, 0.6))
            assert process.poll() is None, f"finished before kill {kills}: {(tmp_path / 'log').read_text()}"
            kill_all_naming(str(ray))
            process.wait()
            kills += 1
        finished = run(command)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert kept(packed) == calm
