"""A recipe with kinds of views and repeats, from images to the report, and the same command again."""

import json
from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.corpus.packed import open_corpus
from tests.support.processes import kd_ray, ray_folder, run
from tests.support.tiny_world import save_teacher, write_images

pytestmark = pytest.mark.ray

NUM_DRAWS, NUM_LOCAL = 2, 3
RECIPE = """\
name: multicrop
out: {home}/out
corpus:
  kind: folder
  uri: {home}/images
  packed_uri: ${{out}}/corpus
  split: {{kind: hash, test_fraction: 0.2}}
  row_group_size: 8
views:
  count: 2
  verify: all
  policy:
    preset: dino_multicrop
    repeats: 2
    kinds:
      global: {{size_px: [32, 32]}}
      global_solarized: {{size_px: [32, 32]}}
      local: {{size_px: [16, 16], num_crops: 3}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  weights: {home}/teacher-0.safetensors
  input: {{size_px: [32, 32]}}
  outputs: {{summary: {{}}, spatial: {{}}, logits: {{}}}}
cache: {{uri: "${{out}}/cache"}}
student:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [24, 24], kind_sizes_px: {{local: [12, 12]}}}}
train:
  losses:
    - {{kind: kd}}
    - {{kind: feature, output: spatial}}
  epochs: 1
  global_batch_size: 16
  num_workers: 2
"""


def test_every_view_of_every_kind_is_seen_by_the_teacher_once(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=12)
    save_teacher(tmp_path, seed=0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(home=tmp_path))
    out = tmp_path / "out"
    with ray_folder() as folder:
        command = kd_ray(str(recipe), f"cluster.temp_dir={folder}")
        first = run(command)
        assert first.returncode == 0, first.stdout + first.stderr
        metrics = json.loads((out / "metrics.json").read_text())
        corpus = open_corpus(load_recipe(recipe).corpus.packed_uri)
        views = (1 + 1 + NUM_LOCAL) * NUM_DRAWS * corpus.num_samples("train") + corpus.num_samples("test")
        assert metrics["extract/teacher_forwards"] == views
        assert 0 <= metrics["student/top1"] <= 1
        page = (out / "report.html").read_text()
        for kind in ("global", "global_solarized", "local"):
            assert f"view set {kind}" in page
            assert len(list((out / "cache" / "views").glob(f"dino_multicrop_{kind}-train-*"))) == 1
        again = run(command)
        assert again.returncode == 0, again.stdout + again.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["extract/teacher_forwards"] == 0
    for stage in ("pack", "plan", "extract", "train", "evaluate", "export", "report"):
        assert metrics[f"{stage}/status"] == "already committed", stage


def test_a_teacher_that_does_not_take_the_size_of_a_kind_is_refused_before_any_forward_pass(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=4)
    save_teacher(tmp_path, seed=0)
    vit = "{kind: timm, name: test_vit, args: {img_size: 32}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(home=tmp_path).replace("{kind: cifar_resnet, depth: 8}", vit, 1))
    with ray_folder() as folder:
        done = run(kd_ray(str(recipe), f"cluster.temp_dir={folder}"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "for 16x16 px" in done.stderr
    assert "dynamic_img_size: true" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "cache").exists()
