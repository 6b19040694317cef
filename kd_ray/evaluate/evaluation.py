"""A finished student against the held-out split and its teacher's cached logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_ray.cache.seen_views import SeenViews
from kd_ray.cache.spec import Spec
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import find_view_store
from kd_ray.config.corpus import Labels
from kd_ray.config.student import Student
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import CorpusAddress, PackedCorpus
from kd_ray.errors import CacheCorrupt, CacheIncomplete
from kd_ray.evaluate.cached import CachedOutput, one_in, usable
from kd_ray.evaluate.features import LabelledFeatures, feature_scores
from kd_ray.evaluate.predict import Predictions, evaluating, predict
from kd_ray.evaluate.scores import NO_LABEL, agreement, calibration_error, negative_log_likelihood, top1
from kd_ray.evaluate.seen_split import SeenSplit
from kd_ray.models import build_model, load_weights, model_outputs, without_pretrained


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLogits:
    """A teacher's logits of the evaluation view, as they lie in the cache, and the views that it saw."""

    cache_uri: str
    target_set: Spec
    output: Spec
    view_set: Spec
    units: tuple[Unit, ...]
    policy: Policy
    verify_one_in: int

    def read(self, address: CorpusAddress) -> Predictions:
        """All of them, with the labels of the corpus.

        Raises:
            CacheIncomplete, CacheCorrupt: the cache does not hold them whole.
        """
        output = CachedOutput(
            cache_uri=self.cache_uri, target_set=self.target_set, output=self.output, units=self.units
        )
        return output.read(address)

    def seen(self, corpus: PackedCorpus) -> SeenSplit:
        """The views of the held-out split that this teacher saw.

        Raises:
            CacheIncomplete: the cache does not hold them whole.
        """
        store = find_view_store(self.cache_uri, self.view_set)
        if store is None:
            raise CacheIncomplete(
                f"{self.cache_uri}: has no views {self.view_set.folder}. Run the extract stage again; it writes them."
            )
        pinned = store.collection.pin(self.units)
        seen = SeenViews(store, pinned, policy=self.policy, verify_one_in=self.verify_one_in)
        return SeenSplit(seen, {unit.span for unit in self.units}, corpus, split="test")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentScores:
    """`scores` by name; `num_rounded` of the compared views differ from the teachers' by another decoder's rounding."""

    scores: dict[str, float]
    num_rounded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationJob:
    """One student and the teachers it is compared with.

    Without a trained classifier its features are scored, by the `labels` of at most about `num_reference_images`.
    """

    student: Student
    num_classes: int
    weights_uri: str
    corpus: CorpusAddress
    policy: Policy
    batch_size: int
    classifier_is_trained: bool
    teachers: Mapping[str, CachedLogits]
    labels: Labels
    num_reference_images: int


def evaluate_student(
    job: EvaluationJob, *, device: str, on_batch: Callable[[int], None] | None = None
) -> StudentScores:
    """`top1`, `nll`, `calibration_error`, `num_images`, and `agreement/<teacher>` for teachers with the same classes.

    Where no loss was on the logits the classifier is as it was initialised, and a score of it would mislead: then
    `knn_top1` and `probe_top1` of the summary.
    A share of the views is compared with those that the teachers saw, which are the same for all teachers.

    Raises:
        ViewMismatch: one of them is another view.
        CacheIncomplete, CacheCorrupt: the cache does not hold the teachers' logits and views whole.
    """
    corpus = job.corpus.open()
    seen = next((each.seen(corpus) for each in job.teachers.values()), None)
    module = build_model(without_pretrained(job.student.model), num_classes=job.num_classes)
    load_weights(module, job.weights_uri)
    if not job.classifier_is_trained:
        return _evaluate_features(job, module, corpus, seen=seen, device=device, on_batch=on_batch)
    with evaluating(module.to(device)) as student:
        found = predict(
            student,
            corpus,
            split="test",
            policy=job.policy,
            size=job.student.input,
            batch_size=job.batch_size,
            device=torch.device(device),
            seen=seen,
            on_batch=on_batch,
        )
    # logits over other classes than the labels can agree with a teacher, but be neither right nor wrong
    scores = score(found) if job.num_classes == len(corpus.classes) else {"num_images": float(len(found.labels))}
    for name, cached in job.teachers.items():
        teacher = cached.read(job.corpus)
        if teacher.logits_NK.shape[1] == found.logits_NK.shape[1]:
            scores[f"agreement/{name}"] = agreement(found.logits_NK, _in_order(teacher, found.sample_ids))
    return StudentScores(scores=scores, num_rounded=0 if seen is None else seen.num_rounded)


def _evaluate_features(
    job: EvaluationJob,
    module: nn.Module,
    corpus: PackedCorpus,
    *,
    seen: SeenSplit | None,
    device: str,
    on_batch: Callable[[int], None] | None,
) -> StudentScores:
    with evaluating(module.to(device)) as student:

        def summary_of(x_BCHW: Tensor) -> Tensor:
            return model_outputs(student, x_BCHW, names=("summary",))["summary"]

        view: dict[str, Any] = {
            "policy": job.policy,
            "size": job.student.input,
            "batch_size": job.batch_size,
            "device": torch.device(device),
        }
        scored = predict(summary_of, corpus, split="test", seen=seen, on_batch=on_batch, **view)
        every = one_in(corpus.num_samples("train"), job.num_reference_images)
        learnt = predict(summary_of, corpus, split="train", num_parts=every, **view)
    scores = feature_scores(
        usable(learnt, corpus.labelled_ids("train", job.labels)),
        LabelledFeatures.known(scored.logits_NK, scored.labels),
    )
    return StudentScores(
        scores={"num_images": float(len(scored.labels)), **scores}, num_rounded=0 if seen is None else seen.num_rounded
    )


def score(found: Predictions) -> dict[str, float]:
    """What can be said of predictions by themselves; without any label, only how many there are."""
    scores = {"num_images": float(len(found.labels))}
    if (found.labels != NO_LABEL).any():
        scores["top1"] = top1(found.logits_NK, found.labels)
        scores["nll"] = negative_log_likelihood(found.logits_NK, found.labels)
        scores["calibration_error"] = calibration_error(found.logits_NK, found.labels)
    return scores


def _in_order(predictions: Predictions, sample_ids: NDArray[np.uint64]) -> NDArray[np.float32]:
    order = np.argsort(predictions.sample_ids)
    places = order[np.searchsorted(predictions.sample_ids, sample_ids, sorter=order) % len(order)]
    if not np.array_equal(predictions.sample_ids[places], sample_ids):
        raise CacheCorrupt(
            "the cached logits are of other samples than the held-out split. Run the extract stage again."
        )
    return predictions.logits_NK[places]
