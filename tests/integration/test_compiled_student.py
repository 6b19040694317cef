"""train.compile: the compiled student learns as the plain one does."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd_ray.config.losses import CrossEntropyLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.training.job import train_alone
from tests.support.tiny_world import fit_settings, plan_views, train_job

pytestmark = [
    pytest.mark.slow,  # the compiler takes half a minute
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
]
NUM_STEPS = 3
# the compiler joins operations and sums in another order
TOLERANCE = 1e-3


def test_a_compiled_student_has_the_losses_and_the_weights_of_a_plain_one(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    job = train_job(
        tiny_corpus,
        plan_views(tiny_corpus, tmp_path / "cache", num_views=2),
        tiny_teacher,
        losses=(CrossEntropyLoss(kind="cross_entropy"),),
        source=None,
        run_uri=tmp_path / "plain",
        settings=fit_settings(NUM_STEPS),
    )
    compiled = replace(job, run_uri=str(tmp_path / "compiled"), settings=fit_settings(NUM_STEPS, compile=True))
    plain, found = train_alone(job, device="cpu"), train_alone(compiled, device="cpu")
    losses = [[entry["loss"] for entry in result.history if "loss" in entry] for result in (plain, found)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=TOLERANCE)
    assert found.weights["last"].keys() == plain.weights["last"].keys()
