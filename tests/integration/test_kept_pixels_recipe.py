"""A recipe with `keep: pixels` as a user runs it: to the report, and then a second student without a single image."""

import json
from pathlib import Path

import pytest

from tests.support.lost_images import destroy_images
from tests.support.processes import kd_ray, ray_folder, run
from tests.support.recipes import write
from tests.support.tiny_world import save_teacher, write_images

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

RECIPE = """\
name: kept
out: {out}
corpus:
  kind: folder
  uri: {images}
  packed_uri: "${{out}}/corpus"
  row_group_size: 8
  split: {{kind: hash, test_fraction: 0.2}}
views:
  count: 2
  keep: pixels
  pixels_size_px: [32, 32]
  pixels_quality: 90
  verify: all
  policy: {{preset: lightly}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [40, 40]}}
  weights: {weights}
  outputs: {{logits: {{codec: float32}}}}
cache: {{uri: "${{out}}/cache", unit_row_groups: 4}}
student:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [24, 24]}}
train:
  losses: [{{kind: kd, temperature: 2.0}}, {{kind: cross_entropy}}]
  epochs: 2
  global_batch_size: 16
export: {{onnx: false}}
cluster: {{temp_dir: {ray}}}
"""


def test_the_whole_recipe_and_a_second_student_without_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=20)
    with ray_folder() as ray:
        weights = save_teacher(tmp_path, seed=0).config.weights
        text = RECIPE.format(out=tmp_path / "out", images=tmp_path / "images", weights=weights, ray=ray)
        recipe = str(write(tmp_path, text))
        first = run(kd_ray(recipe), timeout_s=500)
        assert first.returncode == 0, first.stdout + first.stderr
        flat = " ".join(first.stdout.replace("│", " ").split())
        assert "kept pixels train" in flat
        assert "WARNING: teacher teacher takes 40×40 px, more than is kept of views (32×32)" in flat
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        num_test = int(metrics["student/num_images"])
        assert metrics["extract/teacher_forwards"] == 2 * (60 - num_test) + num_test
        assert list((tmp_path / "out" / "cache" / "views").rglob("pixels.parquet"))
        assert (tmp_path / "out" / "report.html").exists()

        destroy_images(tmp_path / "out" / "corpus")
        second = run(kd_ray(recipe, "student.name=second", "--stages", "train"), timeout_s=500)
        assert second.returncode == 0, second.stdout + second.stderr
        assert "nothing to run" in second.stdout
