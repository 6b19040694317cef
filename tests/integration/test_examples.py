"""The examples of `examples/`, run as a person would run them, on a small real cache."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kd_ray.corpus.packed import open_corpus
from tests.support.own_loop import write_world

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three batches of 16 an epoch."""
    uri = write_world(tmp_path_factory.mktemp("world"), per_class=24)
    assert open_corpus(f"{uri}/../corpus").num_samples("train") // 16 == 3
    return uri


def run(name: str, *arguments: object, folder: Path) -> list[str]:
    """The lines that the example prints, run in `folder`."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


def steps(lines: list[str]) -> list[tuple[int, int]]:
    """(epoch, batches consumed) of every step."""
    found = [re.fullmatch(r"after \[(\d+), (\d+)\]: loss \d+\.\d+", line) for line in lines]
    return [(int(each[1]), int(each[2])) for each in found if each]


WHOLE = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_bare_pytorch_goes_on_inside_an_epoch(cache_uri: str, tmp_path: Path) -> None:
    assert steps(run("bare_pytorch.py", cache_uri, folder=tmp_path)) == WHOLE
    file = tmp_path / "bare_pytorch.pt"
    checkpoint = torch.load(file)
    assert (checkpoint["loader"]["epoch"], checkpoint["loader"]["batches"]) == WHOLE[-1]
    epoch, batches = WHOLE[1]
    torch.save({**checkpoint, "loader": {**checkpoint["loader"], "epoch": epoch, "batches": batches}}, file)
    assert steps(run("bare_pytorch.py", cache_uri, folder=tmp_path)) == WHOLE[2:]


def test_lightning_goes_on_inside_an_epoch(cache_uri: str, tmp_path: Path) -> None:
    assert steps(run("lightning.py", cache_uri, "whole", folder=tmp_path)) == WHOLE
    again = run("lightning.py", cache_uri, "again", "whole/epoch=0-step=2.ckpt", folder=tmp_path)
    assert steps(again) == WHOLE[2:]


def test_timm_style(cache_uri: str, tmp_path: Path) -> None:
    lines = run("timm_style.py", cache_uri, folder=tmp_path)
    assert len(lines) == 2
    assert all(re.fullmatch(r"epoch \d: cross-entropy \d+\.\d+, kd \d+\.\d+", line) for line in lines)
