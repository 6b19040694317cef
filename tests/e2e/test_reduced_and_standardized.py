"""A student of pooled, reduced and standardised features; the cache grows, and the transform stays what it was."""

import json
from pathlib import Path

import pytest

from tests.support.processes import kd_ray, ray_folder, run
from tests.support.recipes import write
from tests.support.tiny_world import save_teacher, write_images

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]  # two whole runs

RECIPE = """
name: reduced
out: {home}/out
corpus: {{kind: folder, uri: {home}/images, packed_uri: "${{out}}/corpus", split: {{kind: hash, test_fraction: 0.3}}}}
labels: {{kind: none}}
views:
  count: 2
  policy: {{name: plain, operations: [{{kind: random_resized_crop, scale: [0.5, 1.0]}}]}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  weights: {home}/teacher-0.safetensors
  num_classes: 3
  input: {{size_px: [32, 32]}}
  outputs: {{spatial: {{codec: int8, pool: 2, basis: {{explained_variance: 0.95}}}}}}
cache: {{uri: "${{out}}/cache"}}
student: {{model: {{kind: cifar_resnet, depth: 8}}, input: {{size_px: [32, 32]}}}}
train:
  losses: [{{kind: feature, output: spatial, distance: mse, standardize: phi_s}}]
  epochs: 2
  global_batch_size: 8
export: {{onnx: false}}
"""


def test_the_transform_is_made_once(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=12)
    save_teacher(tmp_path, seed=0)
    recipe = write(tmp_path, RECIPE.format(home=tmp_path))
    frozen: list[tuple[Path, bytes]] = []
    runs: set[str] = set()
    with ray_folder() as folder:
        for num_views in (2, 4):
            done = run(kd_ray(str(recipe), f"cluster.temp_dir={folder}", f"views.count={num_views}"))
            assert done.returncode == 0, done.stdout + done.stderr
            frozen += [(path, path.read_bytes()) for path in tmp_path.rglob("transforms/*")]
            runs |= {path.parent.name for path in (tmp_path / "out" / "runs").glob("student-*/run.json")}
            metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
            assert metrics["train/status"] != "already committed"
    assert len(runs) == 2
    assert frozen[0][0].name == "phi_s-1"
    assert frozen[1:] == frozen[:1]
