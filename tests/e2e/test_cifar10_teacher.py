"""conf/cifar10.yaml's frozen teacher on the real test images: loading, preprocessing and evaluation are right."""

from pathlib import Path

import torch
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.stages import STAGES
from kd_ray.corpus.packing.pack import pack
from kd_ray.evaluate.evaluation import CachedLogits, score
from kd_ray.extraction.job import build_extractor
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from pipelines.context import Run
from pipelines.stages.finetune import prepare_teachers
from pipelines.stages.pack import pack_corpus
from pipelines.stages.plan import make_plan
from tests.support.processes import ROOT
from tests.support.shared_data import shared_data

NUM_IMAGES, NUM_RIGHT = 4000, 3742  # 93.55 %, measured outside this project


def test_resnet56_reproduces_its_top1(tmp_path: Path) -> None:
    images, weights = shared_data("cifar10"), shared_data("teachers/cifar10_resnet56.safetensors")
    recipe = load_recipe(
        ROOT / "conf" / "cifar10.yaml", [f"corpus.uri={images}", f"teacher.weights={weights}", f"out={tmp_path}"]
    )
    run = Run(
        recipe=recipe,
        storage=open_storage(str(tmp_path)),
        console=Console(quiet=True),
        session=None,  # type: ignore[arg-type]  # no stage below starts Ray
        events=EventLog(None),
        stages=STAGES,
    )
    pack(recipe.corpus)
    corpus = pack_corpus(run)  # finds it packed
    plan = make_plan(recipe, corpus, prepare_teachers(run, corpus)).evaluation["teacher"]
    torch.set_num_threads(2)
    extract = build_extractor(plan.job, device="cpu", batch_size=128, num_threads=2)
    reports = [extract(unit, attempt="test") for unit in plan.view_set.units]
    assert sum(report.num_forwards for report in reports) == NUM_IMAGES

    cached = CachedLogits(
        cache_uri=recipe.cache.uri,
        target_set=plan.job.target_set,
        output=plan.job.outputs["logits"],
        view_set=plan.job.view_set,
        units=plan.view_set.units,
        policy=plan.job.policy,
        verify_one_in=plan.job.verify_one_in,
    )
    scores = score(cached.read(corpus.address))
    assert scores["num_images"] == NUM_IMAGES
    assert round(scores["top1"] * NUM_IMAGES) == NUM_RIGHT
