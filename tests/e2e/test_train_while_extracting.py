"""Two commands at once: one trains with two workers and waits, the other extracts what the first is waiting for."""

import json
from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.corpus.packing.pack import pack
from tests.support.processes import kd_ray, ray_folder, run, start, wait_until
from tests.support.tiny_world import save_teacher, write_images

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

LIMIT_S = 400  # two clusters on a busy machine

RECIPE = """\
name: growing
out: {home}/out
corpus: {{kind: folder, uri: {home}/images, packed_uri: {home}/corpus, row_group_size: 8, shard_row_groups: 4}}
views:
  count: 2
  policy: {{name: crops, operations: [{{kind: random_resized_crop}}]}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  weights: {home}/teacher-0.safetensors
  input: {{size_px: [32, 32]}}
  outputs: {{summary: {{codec: int8}}, logits: {{}}}}
cache: {{uri: {home}/cache, unit_row_groups: 1, unit_views: 1}}
student: {{model: {{kind: cifar_resnet, depth: 8}}, input: {{size_px: [24, 24]}}}}
train:
  losses: [{{kind: kd}}, {{kind: feature, output: summary, head: {{kind: linear}}}}]
  epochs: 2
  global_batch_size: 16
  num_workers: 2
  log_every_steps: 1
"""


def losses(out: Path) -> list[dict[str, float]]:
    """Of each step, without the times."""
    (record,) = out.glob("runs/student-*/run.json")
    history = json.loads(record.read_text())["history"]
    return [
        {name: value for name, value in entry.items() if name not in ("images_per_s_per_worker", "data_wait")}
        for entry in history
    ]


def test_training_begun_before_the_first_unit_ends_as_on_the_whole_cache(tmp_path: Path) -> None:
    recipe, log = tmp_path / "recipe.yaml", tmp_path / "train.log"
    recipe.write_text(RECIPE.format(home=tmp_path))
    write_images(tmp_path / "images", per_class=16)
    save_teacher(tmp_path, seed=0)
    pack(load_recipe(recipe, []).corpus)
    with ray_folder() as training_folder, ray_folder() as folder:
        waiting = start(
            kd_ray(
                str(recipe),
                f"cluster.temp_dir={training_folder}",
                "train.missing_targets=wait",
                "--stages",
                "finetune,plan,train",
            ),
            log=log,
        )
        wait_until(lambda: "student waits for " in log.read_text(), timeout_s=LIMIT_S, what="the training to wait")
        assert not (tmp_path / "cache").exists()
        # the same student, once what both of them need has been extracted
        whole = kd_ray(str(recipe), f"out={tmp_path}/whole", f"cluster.temp_dir={folder}")
        other = run([*whole, "--stages", "finetune,plan,extract,train"], timeout_s=LIMIT_S)
        assert other.returncode == 0, other.stdout + other.stderr
        assert waiting.wait(timeout=LIMIT_S) == 0, log.read_text()
    assert len(losses(tmp_path / "out")) >= 4
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")
