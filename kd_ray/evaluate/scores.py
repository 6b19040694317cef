"""What is said of a model's predictions: top-1, agreement with the teacher, calibration."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

NO_LABEL = -1


def top1(logits_NK: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of labelled samples whose largest logit is the label's; NaN where none is labelled."""
    known = labels != NO_LABEL
    if not known.any():
        return float("nan")
    logits, targets = torch.from_numpy(logits_NK[known]), torch.from_numpy(labels[known])
    return float(multiclass_accuracy(logits, targets, num_classes=logits.shape[1], average="micro"))


def agreement(logits_NK: NDArray[np.float32], teacher_NK: NDArray[np.float32]) -> float:
    """Share of samples on which student and teacher name the same class ("agree@1")."""
    return float((logits_NK.argmax(axis=1) == teacher_NK.argmax(axis=1)).mean())


def calibration_error(logits_NK: NDArray[np.float32], labels: NDArray[np.int64], *, num_bins: int = 15) -> float:
    """Expected calibration error of the softmax over `num_bins` (Guo et al. 2017); NaN where none is labelled."""
    known = labels != NO_LABEL
    if not known.any():
        return float("nan")
    probabilities = torch.from_numpy(logits_NK[known]).softmax(dim=1)
    targets = torch.from_numpy(labels[known])
    return float(
        multiclass_calibration_error(probabilities, targets, num_classes=probabilities.shape[1], n_bins=num_bins)
    )
