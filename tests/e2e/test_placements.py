"""Views rendered beside the teacher, and in tasks of their own: one cache, byte for byte, on Ray."""

from pathlib import Path

import pytest

from kd_ray.cache.commits import Commit
from tests.support.processes import kd_ray, ray_folder, run
from tests.support.recipes import write
from tests.support.tiny_world import files_below, save_teacher, write_images

pytestmark = pytest.mark.ray

RECIPE = """\
name: placements
out: {home}/out
corpus:
  kind: folder
  uri: {home}/images
  packed_uri: ${{out}}/corpus
  split: {{kind: hash, test_fraction: 0.2}}
  row_group_size: 8
views: {{policy: lightly, count: 3}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  weights: {home}/teacher-0.safetensors
  input: {{size_px: [32, 32]}}
  outputs: {{summary: {{}}, logits: {{}}}}
  resources: {{num_cpus: 0.5, max_workers: 2}}
cache: {{uri: "${{out}}/cache", unit_row_groups: 2, unit_views: 2}}
student:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [24, 24]}}
train:
  losses: [{{kind: kd}}]
  epochs: 1
"""


def committed(cache: Path) -> dict[str, bytes]:
    """The bytes of every committed object, by collection, unit and name: what attempts are called is random."""
    files = files_below(cache)
    found = {}
    for name, data in files.items():
        if "/commits/" in name:
            folder = name.split("/commits/")[0]
            commit = Commit.from_json(data, location=name)
            for each in commit.objects:
                found[f"{folder}/{commit.unit.id}/{each}"] = files[
                    f"{folder}/units/{commit.unit.id}/{commit.attempt}/{each}"
                ]
    return found


def test_both_give_the_same_bytes_with_one_worker_or_two(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=16)
    save_teacher(tmp_path, seed=0)
    recipe = str(write(tmp_path, RECIPE.format(home=tmp_path)))
    found = {}
    with ray_folder() as folder:
        for title, overrides in {
            "fused": ["teacher.resources.max_workers=1"],
            "split": ["teacher.resources.placement=split", "teacher.resources.max_render_tasks=3"],
        }.items():
            cache = tmp_path / title
            command = kd_ray(
                recipe,
                "--stages",
                "pack,finetune,plan,extract",
                f"cluster.temp_dir={folder}",
                f"cache.uri={cache}",
                *overrides,
            )
            completed = run(command)
            assert completed.returncode == 0, completed.stdout + completed.stderr
            found[title] = committed(cache)
    assert len(found["fused"]) > 20
    assert found["split"] == found["fused"]
