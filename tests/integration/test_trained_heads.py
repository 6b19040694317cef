"""A trained run keeps its heads, and its export gives the features that it was trained to give."""

from pathlib import Path

import torch

from kd_ray.config.losses import FeatureLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.models import build_model, load_weights
from kd_ray.storage import join
from kd_ray.training.job import HEADS_FILE, WEIGHTS_FILE, build, train_alone
from pipelines.stages.export import _kept_heads
from pipelines.stages.train import TrainedStudent
from tests.support.tiny_world import (
    NUM_CLASSES,
    STUDENT_SIZE_PX,
    fit_settings,
    live_source,
    plan_views,
    train_job,
)

LOSSES = (
    FeatureLoss.model_validate({"kind": "feature", "output": "summary", "head": {"kind": "mlp", "num_inner": 1}}),
    FeatureLoss.model_validate(
        {"kind": "feature", "output": "spatial", "student_stage": 1, "head": {"kind": "attention", "hidden_width": 8}}
    ),
)


def test_heads_come_back_as_they_were_trained(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    views = plan_views(tiny_corpus, tmp_path / "cache", num_views=1)
    source = live_source(tiny_teacher, outputs=("summary", "spatial"))
    job = train_job(
        tiny_corpus,
        views,
        tiny_teacher,
        losses=LOSSES,
        source=source,
        run_uri=tmp_path / "run",
        settings=fit_settings(3),
    )
    train_alone(job, device="cpu")
    kept = _kept_heads(TrainedStudent(job=job, record={}, with_teacher=True))
    assert {key: each["student_stage"] for key, each in kept.described.items()} == {"0": -1, "1": 1}
    assert kept.described["0"]["teacher"] == tiny_teacher.name
    fresh = build(job)
    for name, parameter in fresh.heads.named_parameters():
        if parameter.ndim > 1:
            assert not torch.equal(kept.student.heads.get_parameter(name), parameter), name
    load_weights(fresh.heads, join(job.run_uri, HEADS_FILE))
    load_weights(fresh.backbone, join(job.run_uri, WEIGHTS_FILE))
    x_BCHW = torch.randn(2, 3, *STUDENT_SIZE_PX)
    for name, output in fresh.eval()(x_BCHW).items():
        assert torch.equal(kept.student(x_BCHW)[name], output)
    alone = build_model(job.student.model, num_classes=NUM_CLASSES).eval()
    load_weights(alone, join(job.run_uri, WEIGHTS_FILE))
    assert torch.equal(alone(x_BCHW), kept.student(x_BCHW)["logits"])
