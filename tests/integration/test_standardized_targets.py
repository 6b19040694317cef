"""PHI-S in training: made once, applied to what losses see, and the same for ever however the cache grows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.target_set import open_output
from kd_ray.cache.transforms import FrozenTransform
from kd_ray.cache.verify import verify
from kd_ray.config.losses import FeatureLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt, CacheIncomplete, RecipeError
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.job import TrainJob, build, train
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.standardize import Standardizer
from tests.integration.test_codecs_in_training import Unwatched
from tests.support.tiny_world import cached_source, extract, fit_settings, plan_teacher, plan_views, train_job

LOSS = FeatureLoss(kind="feature", output="spatial", distance="mse", standardize="phi_s")
KEY = ("teacher", "spatial")
CPU = torch.device("cpu")


@pytest.fixture
def plan(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> TargetPlan:
    """Two views of every sample, committed."""
    views = plan_views(tiny_corpus, tmp_path, num_views=2)
    found = plan_teacher(tiny_teacher, views, tiny_corpus, tmp_path, outputs=("spatial",))
    extract(found)
    return found


def grown(plan: TargetPlan, corpus: PackedCorpus, teacher: KnownTeacher) -> TargetPlan:
    """Two views more."""
    views = plan_views(corpus, plan.job.cache_uri, num_views=4)
    found = plan_teacher(teacher, views, corpus, plan.job.cache_uri, outputs=("spatial",))
    assert found.missing
    extract(found)
    return found


def frozen(plan: TargetPlan, *, version: int = 1) -> FrozenTransform:
    return cached_source(plan).freeze_phi_s(KEY, version=version)


def job_of(
    plan: TargetPlan, corpus: PackedCorpus, teacher: KnownTeacher, transforms: dict[int, FrozenTransform]
) -> TrainJob:
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=(LOSS,),
        source={"": cached_source(plan)},
        run_uri="never-written",
        settings=fit_settings(4),
    )
    return replace(job, transforms=transforms)


def losses_of(job: TrainJob, corpus: PackedCorpus) -> list[float]:
    result = train(job, build(job), corpus=corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)
    return [entry["loss"] for entry in result.history if "loss" in entry]


def test_growing_the_cache_changes_no_target_of_a_student(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    first = frozen(plan)
    before = losses_of(job_of(plan, tiny_corpus, tiny_teacher, {0: first}), tiny_corpus)
    assert before != losses_of(job_of(plan, tiny_corpus, tiny_teacher, {}), tiny_corpus)
    more = grown(plan, tiny_corpus, tiny_teacher)
    again = frozen(more)
    assert again == first
    assert losses_of(job_of(plan, tiny_corpus, tiny_teacher, {0: again}), tiny_corpus) == before
    with pytest.raises(RecipeError, match="standardize_version is 3, but there is no version 2 yet"):
        frozen(more, version=3)
    newer = frozen(more, version=2)
    assert newer.digest != first.digest
    assert newer.open().count == 2 * first.open().count
    assert (frozen(more), frozen(more, version=2)) == (first, newer)


def test_the_channels_that_a_loss_sees_vary_by_1(plan: TargetPlan) -> None:
    output = open_output(plan.job.cache_uri, plan.job.target_set, plan.job.outputs["spatial"], create=False)
    standardizer = Standardizer.of(frozen(plan).open(), CPU)
    seen = []
    for commit in output.collection.commits().values():
        values = output.read(commit, view_index=commit.unit.view_start, sample_ids=output.sample_ids(commit))
        seen.append(standardizer(torch.tensor(values)).reshape(-1, 64))
    found_XD = torch.cat(seen).double()
    # of all tokens; the transform is of 8 of the 64 of each view
    assert found_XD.var(dim=0).mean() == pytest.approx(1, rel=0.05)
    assert 0.6 < found_XD.var(dim=0).min() < found_XD.var(dim=0).max() < 1.6
    assert found_XD.mean(dim=0).abs().max() < 0.2


def test_a_loss_is_of_the_standardised_target(plan: TargetPlan) -> None:
    transform = frozen(plan).open()
    losses = WeightedLosses(losses=(LOSS,), teachers=("teacher",), standardizers={0: Standardizer.of(transform, CPU)})
    random = np.random.default_rng(0)
    target, predicted = (random.normal(size=(3, 8, 8, 64)).astype(np.float32) for _ in range(2))
    outputs = {"logits": torch.zeros(3, 3), "feature_0": torch.from_numpy(predicted)}
    labels = Labels.unmixed(torch.zeros(3, dtype=torch.int64))
    total, _ = losses(outputs, labels, {KEY: torch.from_numpy(target)})
    assert float(total) == pytest.approx(((predicted - transform.apply(target)) ** 2).mean(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # which would round targets to 8 bits
        rounded, _ = losses(outputs, labels, {KEY: torch.from_numpy(target)})
    assert float(rounded) == pytest.approx(float(total), rel=1e-6)


def test_one_that_is_damaged_or_lost_stops_the_run_and_is_named(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    transform = frozen(plan)
    (path,) = Path(plan.job.cache_uri).rglob("transforms/phi_s-1")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CacheCorrupt, match=rf"{path}: has the digest .* Restore it: students were trained"):
        losses_of(job_of(plan, tiny_corpus, tiny_teacher, {0: transform}), tiny_corpus)
    with pytest.raises(CacheCorrupt, match=f"{path}: crc32c"):
        frozen(plan)
    catalog = read_catalog(plan.job.cache_uri)
    findings = verify(catalog, catalog.entries, report=lambda done, total: None).all_findings
    assert [each.location for each in findings] == [str(path)]
    path.unlink()
    with pytest.raises(CacheCorrupt, match=f"{path}: is missing"):
        transform.open()


def test_of_an_empty_output_there_is_none(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    views = plan_views(tiny_corpus, tmp_path, num_views=2)
    empty = plan_teacher(tiny_teacher, views, tiny_corpus, tmp_path, outputs=("spatial",))
    open_output(str(tmp_path), empty.job.target_set, empty.job.outputs["spatial"], create=True)
    with pytest.raises(CacheIncomplete, match="has no units yet"):
        frozen(empty)
