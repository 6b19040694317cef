"""`kd_ray.distill` as in a notebook, on a folder of images of one's own."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import ray_folder, run

pytestmark = pytest.mark.ray

NOTEBOOK = """
import json, sys
import kd_ray

images, out, ray_folder = sys.argv[1:]
size = [32, 32]
metrics = kd_ray.distill(
    data=images,
    teacher={
        "model": {"kind": "timm", "name": "test_resnet"},
        "finetune": {"steps": 5},
        "outputs": {"summary": {}, "spatial": {}, "logits": {"codec": "float32"}},
    },
    student={"model": {"kind": "cifar_resnet", "depth": 8}},
    out=out,
    size_px=32,
    views=2,
    epochs=2,
    overrides={
        "cluster": {"temp_dir": ray_folder},
        "export": {"heads": True},
        "train": {
            "losses": [
                {"kind": "kd", "temperature": 2.0},
                {"kind": "feature", "output": "summary", "distance": "balanced"},
                {"kind": "feature", "output": "spatial", "head": {"kind": "mlp", "hidden_width": 32}},
            ]
        },
    },
)
print(json.dumps(metrics))
"""


def folder_of_images(root: Path, *, per_class: int) -> Path:
    """Two classes of noisy photographs of unlike sizes: dark and light."""
    generator = np.random.default_rng(0)
    for label, (low, high) in {"dark": (0, 120), "light": (130, 255)}.items():
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            height, width = generator.integers(40, 90, size=2)
            pixels = generator.integers(low, high, size=(height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.jpg", quality=90)
    return root


def test_a_folder_of_ones_own_in_one_call(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", per_class=60)
    with ray_folder() as folder:
        done = run([sys.executable, "-c", NOTEBOOK, str(images), str(tmp_path / "out"), str(folder)])
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads(done.stdout.strip().split("\n")[-1])
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    num_train = 120 - int(metrics["student/num_images"])
    assert metrics["extract/teacher_forwards"] == num_train * 2 + metrics["student/num_images"]
    exported = tmp_path / "out" / "export" / "student"
    assert (exported / "model.safetensors").exists()
    told = json.loads((exported / "heads.json").read_text())
    assert [(each["output"], each["teacher"]) for each in told] == [("summary", "teacher"), ("spatial", "teacher")]
    assert f"| top1 | {metrics['student/top1']:.6g} |" in (exported / "README.md").read_text()
