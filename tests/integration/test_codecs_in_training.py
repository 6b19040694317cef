"""Every codec from the teacher through the cache to the loss: how far each is from targets stored exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.config.losses import FeatureLoss, KdLoss, Loss
from kd_ray.config.outputs import Outputs
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import build, train
from tests.support.tiny_world import (
    cached_sources,
    extract,
    fit_settings,
    plan_teacher,
    plan_views,
    train_job,
)

NUM_STEPS = 6
KD = KdLoss(kind="kd", temperature=2.0)
FEATURES = FeatureLoss(kind="feature", output="spatial", distance="mse")


class Unwatched:
    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None: ...


def storing(teacher: KnownTeacher, **outputs: object) -> KnownTeacher:
    stored = Outputs.model_validate(outputs)
    return replace(teacher, config=teacher.config.model_copy(update={"outputs": stored}))


def first_losses(
    teacher: KnownTeacher, corpus: PackedCorpus, cache: Path, output: str, losses: tuple[Loss, ...]
) -> NDArray[np.float64]:
    """The loss of each of the first steps, targets read from a new cache."""
    views = plan_views(corpus, cache, num_views=2)
    plan = plan_teacher(teacher, views, corpus, cache, outputs=(output,))
    extract(plan)
    assert not plan_teacher(teacher, views, corpus, cache, outputs=(output,)).missing
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=losses,
        source=cached_sources(plan),
        run_uri=Path("never-written"),
        settings=fit_settings(NUM_STEPS),
    )
    result = train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)
    return np.array([entry["loss"] for entry in result.history if "loss" in entry])


@pytest.mark.parametrize(
    ("codec", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 2e-2), ("uint8", 2e-2)]
)
def test_logits_in_every_codec_teach_nearly_the_same(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path, codec: str, tolerance: float
) -> None:
    exact = storing(tiny_teacher, logits={"codec": "float32"})
    coded = storing(tiny_teacher, logits={"codec": codec})
    expected = first_losses(exact, tiny_corpus, tmp_path / "exact", "logits", (KD,))
    found = first_losses(coded, tiny_corpus, tmp_path / "coded", "logits", (KD,))
    assert (found != expected).any()  # the codec is really in between
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 1e-1)


@pytest.mark.parametrize(("codec", "tolerance"), [("bfloat16", 1e-2), ("int8", 1e-2)])
def test_features_in_every_codec_teach_nearly_the_same(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path, codec: str, tolerance: float
) -> None:
    exact = storing(tiny_teacher, spatial={"codec": "float32"})
    coded = storing(tiny_teacher, spatial={"codec": codec})
    expected = first_losses(exact, tiny_corpus, tmp_path / "exact", "spatial", (FEATURES,))
    found = first_losses(coded, tiny_corpus, tmp_path / "coded", "spatial", (FEATURES,))
    assert (found != expected).any()
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@pytest.mark.parametrize("remainder", ["ghost", "uniform"])
def test_the_greatest_logits_are_all_there_is_when_one_class_is_left_out(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path, remainder: str
) -> None:
    """What is not kept has one member only, whose mass the log-sum-exp gives: nothing is lost."""
    num_classes = tiny_teacher.shapes["logits"][-1]
    loss = KD.model_copy(update={"remainder": remainder})
    exact = storing(tiny_teacher, logits={"codec": "float32"})
    kept = storing(tiny_teacher, logits={"codec": "top_k", "k": num_classes - 1})
    expected = first_losses(exact, tiny_corpus, tmp_path / "exact", "logits", (loss,))
    found = first_losses(kept, tiny_corpus, tmp_path / "kept", "logits", (loss,))
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_as_many_kept_as_there_are_classes_is_refused(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    num_classes = tiny_teacher.shapes["logits"][-1]
    teacher = storing(tiny_teacher, logits={"codec": "top_k", "k": num_classes})
    views = plan_views(tiny_corpus, tmp_path, num_views=2)
    with pytest.raises(RecipeError, match=rf"outputs\.logits\.k is {num_classes}, but there are {num_classes} classes"):
        plan_teacher(teacher, views, tiny_corpus, tmp_path, outputs=("logits",))
