"""A recipe with kinds of views and repeats, from images to the report, and the same command again."""

import json
from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.corpus.packed import open_corpus
from tests.support.kinds_world import MULTICROP_RECIPE, NUM_DRAWS_OF_RECIPE, NUM_LOCAL
from tests.support.processes import kd_ray, ray_folder, run
from tests.support.recipes import write
from tests.support.tiny_world import save_teacher, write_images

pytestmark = pytest.mark.ray


def test_every_view_of_every_kind_is_seen_by_the_teacher_once(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=12)
    save_teacher(tmp_path, seed=0)
    recipe = write(tmp_path, MULTICROP_RECIPE.format(home=tmp_path))
    out = tmp_path / "out"
    with ray_folder() as folder:
        finetune = "teacher.finetune={steps: 2, global_batch_size: 16}"
        command = kd_ray(str(recipe), f"cluster.temp_dir={folder}", finetune, "train.reference=true")
        first = run(command)
        assert first.returncode == 0, first.stdout + first.stderr
        metrics = json.loads((out / "metrics.json").read_text())
        corpus = open_corpus(load_recipe(recipe).corpus.packed_uri)
        views = (1 + 1 + NUM_LOCAL) * NUM_DRAWS_OF_RECIPE * corpus.num_samples("train") + corpus.num_samples("test")
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
    for stage in ("pack", "finetune", "plan", "extract", "train", "evaluate", "export", "report"):
        assert metrics[f"{stage}/status"] == "already committed", stage
