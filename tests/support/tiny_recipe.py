"""A recipe file over the tiny world, and its cache made in this process, without Ray."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_ray.config.layers import merged
from kd_ray.config.load import load_recipe
from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher
from pipelines.cache.recipe_plan import plan_of
from pipelines.stages.plan import CachePlan
from tests.support.tiny_world import POLICY, STUDENT_SIZE_PX, VIEW_SEED, extract


def write_recipe(
    folder: Path, corpus: PackedCorpus, teacher: KnownTeacher, *, changes: Mapping[str, Any] | None = None
) -> Path:
    """Two views of each sample, summary and logits of `teacher`, a cache in `folder`; `changes` are laid over it."""
    values = {
        "name": "tiny",
        "out": f"{folder}/out",
        "corpus": {"kind": "folder", "uri": f"{folder}/gone", "packed_uri": corpus.uri},
        "views": {"policy": POLICY.model_dump(mode="json"), "seed": VIEW_SEED, "count": 2},
        "teacher": {
            "model": teacher.config.model.model_dump(mode="json"),
            "weights": teacher.weights_uri,
            "input": {"size_px": list(teacher.config.input.size_px)},
            "outputs": {"summary": {"codec": "float16"}, "logits": {"codec": "float32"}},
        },
        "cache": {"uri": f"{folder}/cache", "unit_row_groups": 2, "unit_views": 2},
        "student": {"model": {"kind": "cifar_resnet", "depth": 8}, "input": {"size_px": list(STUDENT_SIZE_PX)}},
        "train": {"losses": [{"kind": "kd"}], "epochs": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(merged(values, changes or {}), indent=1), encoding="utf-8")  # JSON is YAML
    return path


def filled(path: Path) -> tuple[Recipe, CachePlan]:
    """The recipe, and its plan after all of it has been extracted."""
    recipe = load_recipe(path, [])
    _, plan = plan_of(recipe)
    for each in plan.all:
        extract(each)
    return recipe, plan_of(recipe)[1]
