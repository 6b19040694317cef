"""Predictions over a split: each image once, through the evaluation view; and teachers read from the cache."""

import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from kd_ray.cache.view_store import find_view_store
from kd_ray.config.corpus import AllLabels, LabelsPerClass
from kd_ray.config.models import Input
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.student import Student
from kd_ray.config.views import EVALUATION_POLICY, CenterCrop, Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt, CacheIncomplete, ViewMismatch
from kd_ray.evaluate.cached import CachedOutput, CachedSummaries
from kd_ray.evaluate.evaluation import CachedLogits, EvaluationJob, evaluate_student
from kd_ray.evaluate.predict import EVALUATION_VIEW_SEED, Predictions, evaluating, predict
from kd_ray.evaluate.scores import agreement, calibration_error, top1
from kd_ray.extraction.plan import KnownTeacher, TargetPlan, plan_view_set
from kd_ray.models import build_model, save_weights
from kd_ray.models.pixels import to_input
from kd_ray.storage import open_storage
from kd_ray.views import Proof, draw, render
from tests.support.tiny_world import NUM_CLASSES, STUDENT_SIZE_PX, extract, images_of, plan_teacher, plan_views

SIZE = Input(size_px=STUDENT_SIZE_PX)


def corner_pixels(inputs_BCHW: Tensor) -> Tensor:
    """A model whose logits show its inputs: one pixel of each image."""
    return inputs_BCHW[:, :, 5, 7]


def predictions(corpus: PackedCorpus, *, batch_size: int = 5, logits_of=corner_pixels, **changes) -> Predictions:
    settings = {"split": "train", "policy": EVALUATION_POLICY, "size": SIZE, "device": torch.device("cpu")}
    return predict(logits_of, corpus, batch_size=batch_size, **{**settings, **changes})


def test_each_sample_is_seen_once_through_its_evaluation_view(tiny_corpus: PackedCorpus) -> None:
    found, images = predictions(tiny_corpus), images_of(tiny_corpus)
    assert found.sample_ids.tolist() == tiny_corpus.members("train").sample_ids.tolist()
    np.testing.assert_array_equal(found.labels, tiny_corpus.members("train").labels)
    for sample_id, logits in zip(found.sample_ids.tolist(), found.logits_NK, strict=True):
        image = images[sample_id]
        params = draw(
            EVALUATION_POLICY,
            seed=EVALUATION_VIEW_SEED,
            sample_id=sample_id,
            view_index=0,
            image_size_px=image.shape[:2],
        )
        pixels = render(image, params, size_px=SIZE.size_px, interpolation="bicubic")
        np.testing.assert_array_equal(logits, corner_pixels(to_input(pixels[None], SIZE))[0].numpy())


def test_batch_size_and_progress(tiny_corpus: PackedCorpus) -> None:
    sizes: list[int] = []
    whole = predictions(tiny_corpus, batch_size=1000)
    np.testing.assert_array_equal(predictions(tiny_corpus, on_batch=sizes.append).logits_NK, whole.logits_NK)
    assert sum(sizes) == len(whole.sample_ids)
    assert max(sizes) == 5


@pytest.mark.parametrize("num_parts", [2, 3, 100])
def test_parts_together_are_the_whole(tiny_corpus: PackedCorpus, num_parts: int) -> None:
    whole = predictions(tiny_corpus)
    parts = [predictions(tiny_corpus, part=part, num_parts=num_parts) for part in range(num_parts)]
    rows = [
        (sample_id, label, *logits)
        for part in parts
        for sample_id, label, logits in zip(
            part.sample_ids.tolist(), part.labels.tolist(), part.logits_NK.tolist(), strict=True
        )
    ]
    assert Counter(rows) == Counter(
        (sample_id, label, *logits)
        for sample_id, label, logits in zip(
            whole.sample_ids.tolist(), whole.labels.tolist(), whole.logits_NK.tolist(), strict=True
        )
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_comes_back(training: bool) -> None:
    module = nn.Dropout().train(training)
    with evaluating(module) as inside:
        assert not inside.training
    assert module.training == training
    with pytest.raises(ZeroDivisionError), evaluating(module):
        _ = 1 // 0
    assert module.training == training


@pytest.fixture(scope="module")
def evaluation_plan(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path_factory: pytest.TempPathFactory
) -> TargetPlan:
    """The teacher's logits of the held-out split, in the cache."""
    cache = tmp_path_factory.mktemp("evaluation")
    views = plan_view_set(
        tiny_corpus,
        split="test",
        policy=EVALUATION_POLICY,
        seed=EVALUATION_VIEW_SEED,
        num_views=1,
        cache=CacheSettings(uri=str(cache), unit_row_groups=1),
        widest_bytes_per_view=1,
    )
    plan = plan_teacher(tiny_teacher, views, tiny_corpus, cache, outputs=("logits",))
    extract(plan)
    return plan


def cached_logits(plan: TargetPlan) -> CachedLogits:
    return CachedLogits(
        cache_uri=plan.job.cache_uri,
        target_set=plan.job.target_set,
        output=plan.job.outputs["logits"],
        view_set=plan.job.view_set,
        units=plan.view_set.units,
        policy=plan.job.policy,
        verify_one_in=plan.job.verify_one_in,
    )


def student_job(
    corpus: PackedCorpus, teachers: dict[str, CachedLogits], *, weights_uri: str, size_px: tuple[int, int]
) -> EvaluationJob:
    return EvaluationJob(
        student=Student.model_validate({"model": {"kind": "cifar_resnet", "depth": 8}, "input": {"size_px": size_px}}),
        num_classes=NUM_CLASSES,
        weights_uri=weights_uri,
        corpus=corpus.address,
        policy=EVALUATION_POLICY,
        batch_size=16,
        classifier_is_trained=True,
        teachers=teachers,
        labels=AllLabels(),
        num_reference_images=10_000,
    )


def test_a_student_that_is_its_teacher_agrees_with_it_wholly(tiny_corpus, tiny_teacher, evaluation_plan) -> None:
    """The teacher's own weights at its own size: what the cache holds is what the network says, row by row."""
    assert tiny_teacher.weights_uri is not None
    job = student_job(
        tiny_corpus,
        {"teacher": cached_logits(evaluation_plan)},
        weights_uri=tiny_teacher.weights_uri,
        size_px=tiny_teacher.config.input.size_px,
    )
    found = evaluate_student(job, device="cpu").scores
    cached = cached_logits(evaluation_plan).read(tiny_corpus.address)
    assert found["agreement/teacher"] == 1.0
    assert found["num_images"] == len(cached.labels) == tiny_corpus.num_samples("test")
    assert found["top1"] == pytest.approx(top1(cached.logits_NK, cached.labels))
    assert found["calibration_error"] == pytest.approx(calibration_error(cached.logits_NK, cached.labels), abs=1e-5)


def test_another_student_is_compared_sample_by_sample(tiny_corpus, tiny_teacher, evaluation_plan, tmp_path) -> None:
    torch.manual_seed(5)
    module = build_model(tiny_teacher.config.model, num_classes=NUM_CLASSES)
    save_weights(module, open_storage(str(tmp_path)), "student.safetensors")
    job = student_job(
        tiny_corpus,
        {"teacher": cached_logits(evaluation_plan)},
        weights_uri=f"{tmp_path}/student.safetensors",
        size_px=STUDENT_SIZE_PX,
    )
    with evaluating(module):
        own = predictions(tiny_corpus, logits_of=module, split="test")
    cached = cached_logits(evaluation_plan).read(tiny_corpus.address)
    row_of = {sample_id: row for row, sample_id in enumerate(cached.sample_ids.tolist())}
    in_order = cached.logits_NK[[row_of[sample_id] for sample_id in own.sample_ids.tolist()]]
    found = evaluate_student(job, device="cpu").scores
    assert found["agreement/teacher"] == agreement(own.logits_NK, in_order)
    assert found["top1"] == pytest.approx(top1(own.logits_NK, own.labels))


def test_logits_of_part_of_the_split_are_refused(tiny_corpus, tiny_teacher, evaluation_plan) -> None:
    part = replace(cached_logits(evaluation_plan), units=evaluation_plan.view_set.units[1:])
    job = student_job(tiny_corpus, {"teacher": part}, weights_uri=tiny_teacher.weights_uri, size_px=STUDENT_SIZE_PX)
    with pytest.raises(CacheCorrupt, match="of other samples than the held-out split"):
        evaluate_student(job, device="cpu")


def test_logits_that_are_not_there_are_refused(tiny_corpus, evaluation_plan, tmp_path: Path) -> None:
    elsewhere = replace(cached_logits(evaluation_plan), cache_uri=str(tmp_path))
    with pytest.raises(CacheIncomplete, match="holds nothing named teacher"):
        elsewhere.read(tiny_corpus.address)


@pytest.mark.parametrize(
    ("verify_one_in", "is_noticed"),
    [pytest.param(1, True, id="all"), pytest.param(2**62, False, id="none of the share")],
)
def test_another_view_than_the_teacher_saw_is_refused(
    tiny_corpus, tiny_teacher, evaluation_plan, verify_one_in: int, is_noticed: bool
) -> None:
    """The evaluation view of the recipe is another one than that of the cached logits."""
    closer = Policy(name="closer", operations=(CenterCrop(kind="center_crop", crop_fraction=0.5),))
    cached = replace(cached_logits(evaluation_plan), verify_one_in=verify_one_in)
    job = student_job(tiny_corpus, {"teacher": cached}, weights_uri=tiny_teacher.weights_uri, size_px=STUDENT_SIZE_PX)
    ids = tiny_corpus.members("test").sample_ids
    assert not any(int(each) % 2**62 == 0 for each in ids)
    with pytest.raises(ViewMismatch, match="is not the one the teacher saw") if is_noticed else nullcontext():
        evaluate_student(replace(job, policy=closer), device="cpu")


def test_views_of_another_decoder_are_counted(tiny_corpus, tiny_teacher, evaluation_plan, tmp_path: Path) -> None:
    """The stored thumbnails are one level off, as another libjpeg has them; the digests are others."""
    cache = tmp_path / "cache"
    shutil.copytree(evaluation_plan.job.cache_uri, cache)
    views = find_view_store(str(cache), evaluation_plan.job.view_set)
    assert views is not None
    for unit, commit in views.collection.commits().items():
        rows = [replace(row, proof=one_level_off(row.proof)) for row in views.rows(commit)]
        ids = np.array([row.sample_id for row in rows], dtype=np.uint64)
        assert views.write(unit, rows, ids, attempt="another-decoder", generation=1)
    elsewhere = replace(cached_logits(evaluation_plan), cache_uri=str(cache), verify_one_in=1)
    job = student_job(
        tiny_corpus, {"teacher": elsewhere}, weights_uri=tiny_teacher.weights_uri, size_px=STUDENT_SIZE_PX
    )
    assert evaluate_student(job, device="cpu").num_rounded == tiny_corpus.num_samples("test")
    exact = student_job(
        tiny_corpus,
        {"teacher": cached_logits(evaluation_plan)},
        weights_uri=tiny_teacher.weights_uri,
        size_px=STUDENT_SIZE_PX,
    )
    assert evaluate_student(exact, device="cpu").num_rounded == 0


def one_level_off(proof: Proof) -> Proof:
    """The same view, hardly changed."""
    assert proof.thumbnail is not None
    levels = np.frombuffer(proof.thumbnail, np.uint8)
    return Proof(digest=bytes(16), thumbnail=np.where(levels < 255, levels + 1, levels - 1).astype(np.uint8).tobytes())


def summaries(plan: TargetPlan) -> CachedOutput:
    return CachedOutput(
        cache_uri=plan.job.cache_uri,
        target_set=plan.job.target_set,
        output=plan.job.outputs["summary"],
        units=plan.view_set.units,
    )


def vote(learnt: NDArray[np.float32], labels: NDArray[np.int64], scored: NDArray[np.float32]) -> NDArray[np.int64]:
    """The oracle: scikit-learn's neighbours by cosine distance."""
    votes = KNeighborsClassifier(20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
    return votes.fit(learnt.astype(np.float64), labels).predict(scored.astype(np.float64))


def test_student_without_a_classifier_is_scored_by_its_features(
    tiny_corpus, tiny_teacher, evaluation_plan, tmp_path
) -> None:
    """The bank is the labelled part of the training images, at the evaluation view."""
    torch.manual_seed(5)
    module = build_model(tiny_teacher.config.model, num_classes=NUM_CLASSES)
    save_weights(module, open_storage(str(tmp_path)), "student.safetensors")
    job = student_job(
        tiny_corpus,
        {"teacher": cached_logits(evaluation_plan)},
        weights_uri=f"{tmp_path}/student.safetensors",
        size_px=STUDENT_SIZE_PX,
    )
    labels = LabelsPerClass(kind="per_class", count=9)
    found = evaluate_student(replace(job, classifier_is_trained=False, labels=labels), device="cpu")

    def summary_of(x_BCHW: torch.Tensor) -> torch.Tensor:
        return module.forward_head(module.forward_features(x_BCHW), pre_logits=True)

    with evaluating(module):
        bank, held_out = (predictions(tiny_corpus, logits_of=summary_of, split=split) for split in ("train", "test"))
    used = np.isin(bank.sample_ids, tiny_corpus.labelled_ids("train", labels))
    assert used.sum() == 9 * NUM_CLASSES < len(used)
    wanted = vote(bank.logits_NK[used], bank.labels[used], held_out.logits_NK)
    assert found.scores["knn_top1"] == (wanted == held_out.labels).mean()
    assert 0 <= found.scores["probe_top1"] <= 1
    assert "top1" not in found.scores


def test_a_teacher_is_scored_by_its_cached_summaries(
    tiny_corpus, tiny_teacher, evaluation_plan, tmp_path: Path
) -> None:
    train = plan_teacher(
        tiny_teacher, plan_views(tiny_corpus, tmp_path, num_views=4), tiny_corpus, tmp_path, outputs=("summary",)
    )
    extract(train)
    test = plan_teacher(tiny_teacher, evaluation_plan.view_set, tiny_corpus, tmp_path, outputs=("summary",))
    extract(test)
    cached = CachedSummaries(train=summaries(train), test=summaries(test))
    ids = tiny_corpus.labelled_ids("train", AllLabels())
    found = cached.score(tiny_corpus.address, usable_labels=ids, num_reference_images=10_000)
    bank, held_out = cached.train.read(tiny_corpus.address), cached.test.read(tiny_corpus.address)
    assert sorted(bank.sample_ids.tolist()) == ids.tolist()  # one view of each
    assert found["knn_top1"] == (vote(bank.logits_NK, bank.labels, held_out.logits_NK) == held_out.labels).mean()
    assert 0 <= found["probe_top1"] <= 1
    fewer = cached.train.read(tiny_corpus.address, every=2)
    assert 0 < len(fewer.sample_ids) < len(bank.sample_ids)
