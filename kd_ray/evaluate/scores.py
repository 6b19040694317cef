"""What is said of a model's predictions: top-1, agreement with the teacher, calibration."""

import numpy as np
import torch
from numpy.typing import NDArray

NO_LABEL = -1


def top1(logits_NK: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of labelled samples whose largest logit is the label's; NaN where none is labelled."""
    known = labels != NO_LABEL
    if not known.any():
        return float("nan")
    from torchmetrics.functional.classification import multiclass_accuracy  # 1.5 s, only where a model is scored

    logits, targets = torch.from_numpy(logits_NK[known]), torch.from_numpy(labels[known])
    return float(multiclass_accuracy(logits, targets, num_classes=logits.shape[1], average="micro"))


def agreement(logits_NK: NDArray[np.float32], teacher_NK: NDArray[np.float32]) -> float:
    """Share of samples on which student and teacher name the same class ("agree@1")."""
    return float((logits_NK.argmax(axis=1) == teacher_NK.argmax(axis=1)).mean())


def negative_log_likelihood(logits_NK: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean of -log softmax at the label over labelled samples, in nats; NaN where none is labelled."""
    known = labels != NO_LABEL
    if not known.any():
        return float("nan")
    log_probabilities = torch.from_numpy(logits_NK[known]).double().log_softmax(dim=1).numpy()
    return float(-log_probabilities[np.arange(known.sum()), labels[known]].mean())


def calibration_error(logits_NK: NDArray[np.float32], labels: NDArray[np.int64], *, num_bins: int = 15) -> float:
    """Expected calibration error of the softmax over `num_bins` bins (low, high]; NaN where none is labelled.

    Guo et al. 2017. torchmetrics (1.9) gives confidences of exactly 1, of which a sure model has many, a bin of their
    own.
    """
    known = labels != NO_LABEL
    if not known.any():
        return float("nan")
    confidences, predicted = torch.from_numpy(logits_NK[known]).double().softmax(dim=1).max(dim=1)
    gaps = (predicted.numpy() == labels[known]) - confidences.numpy()
    bins = np.ceil(confidences.numpy() * num_bins).astype(np.int64) - 1
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=num_bins)).sum() / len(gaps))
