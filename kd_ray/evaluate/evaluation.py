"""A finished student against the held-out split and its teacher's cached logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Unit
from kd_ray.config.models import Student
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import CorpusAddress
from kd_ray.errors import CacheCorrupt
from kd_ray.evaluate.predict import Predictions, evaluating, predict
from kd_ray.evaluate.scores import NO_LABEL, agreement, calibration_error, top1
from kd_ray.models import build_model, load_weights, without_pretrained


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLogits:
    """A teacher's logits of the evaluation view, as they lie in the cache."""

    cache_uri: str
    target_set: Spec
    output: Spec
    units: tuple[Unit, ...]

    def read(self, address: CorpusAddress) -> Predictions:
        """All of them, with the labels of the corpus.

        Raises:
            CacheIncomplete, CacheCorrupt: the cache does not hold them whole.
        """
        output = open_output(self.cache_uri, self.target_set, self.output, create=False)
        pinned = output.collection.pin(self.units)
        corpus = address.open()
        ids, labels, logits = [], [], []
        for (span, view), commit in pinned.items():
            rows = corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=["label"])
            ids.append(rows.sample_ids)
            labels.append(rows.labels.astype(np.int64))
            logits.append(output.read(commit, view_index=view, sample_ids=rows.sample_ids).astype(np.float32))
        return Predictions(
            sample_ids=np.concatenate(ids), labels=np.concatenate(labels), logits_NK=np.concatenate(logits)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationJob:
    """One student and the teachers it is compared with."""

    student: Student
    num_classes: int
    weights_uri: str
    corpus: CorpusAddress
    policy: Policy
    batch_size: int
    classifier_is_trained: bool
    teachers: Mapping[str, CachedLogits]


def evaluate_student(
    job: EvaluationJob, *, device: str, on_batch: Callable[[int], None] | None = None
) -> dict[str, float]:
    """`top1`, `calibration_error`, `num_images`, and `agreement/<teacher>` for teachers with the same classes.

    Nothing where no loss was on the logits: the classifier is as it was initialised, and a score of it would mislead.
    """
    if not job.classifier_is_trained:
        return {}
    corpus = job.corpus.open()
    module = build_model(without_pretrained(job.student.model), num_classes=job.num_classes)
    load_weights(module, job.weights_uri)
    with evaluating(module.to(device)) as student:
        found = predict(
            student,
            corpus,
            split="test",
            policy=job.policy,
            size=job.student.input,
            batch_size=job.batch_size,
            device=torch.device(device),
            on_batch=on_batch,
        )
    # logits over other classes than the labels can agree with a teacher, but be neither right nor wrong
    scores = score(found) if job.num_classes == len(corpus.classes) else {"num_images": float(len(found.labels))}
    for name, cached in job.teachers.items():
        teacher = cached.read(job.corpus)
        if teacher.logits_NK.shape[1] == found.logits_NK.shape[1]:
            scores[f"agreement/{name}"] = agreement(found.logits_NK, _in_order(teacher, found.sample_ids))
    return scores


def score(found: Predictions) -> dict[str, float]:
    """What can be said of predictions by themselves; without any label, only how many there are."""
    scores = {"num_images": float(len(found.labels))}
    if (found.labels != NO_LABEL).any():
        scores["top1"] = top1(found.logits_NK, found.labels)
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
