"""Scores against scikit-learn and plain NumPy in float64."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss

from kd_ray.evaluate.scores import NO_LABEL, agreement, calibration_error, negative_log_likelihood, top1


def predictions(*, scale: float, seed: int = 0, count: int = 400) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of five classes and labels that follow them about half of the time; a tenth has none."""
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(count, 5)) * scale).astype(np.float32)
    labels = np.where(random.random(count) < 0.4, logits.argmax(axis=1), random.integers(0, 5, count))
    return logits, np.where(random.random(count) < 0.1, NO_LABEL, labels).astype(np.int64)


def expected_calibration_error(logits: NDArray[np.float32], labels: NDArray[np.int64], num_bins: int) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    x = logits.astype(np.float64)
    probabilities = np.exp(x - x.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for low, high in zip(np.arange(num_bins) / num_bins, np.arange(1, num_bins + 1) / num_bins, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_top1_is_the_accuracy_on_labelled_samples(scale: float) -> None:
    logits, labels = predictions(scale=scale)
    known = labels != NO_LABEL
    assert top1(logits, labels) == pytest.approx(accuracy_score(labels[known], logits[known].argmax(axis=1)), abs=1e-7)


# at 60 most confidences are exactly 1 in float32
@pytest.mark.parametrize("scale", [0.5, 3.0, 60.0])
@pytest.mark.parametrize("num_bins", [10, 15])
def test_calibration_error_by_the_definition(scale: float, num_bins: int) -> None:
    logits, labels = predictions(scale=scale)
    known = labels != NO_LABEL
    expected = expected_calibration_error(logits[known], labels[known], num_bins)
    assert calibration_error(logits, labels, num_bins=num_bins) == pytest.approx(expected, abs=1e-9)


def test_full_confidence_shares_the_last_bin() -> None:
    """Half sure at 1 and half right, half at 0.97 and all right: in one bin these nearly cancel."""
    sure, nearly = [1000.0, 0.0], [math.log(0.97 / 0.03), 0.0]
    logits = np.array([sure, sure, nearly, nearly], np.float32)
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(logits, labels, num_bins=10) == pytest.approx(0.985 - 0.75, abs=1e-6)


def test_perfect_and_perfectly_wrong() -> None:
    logits = np.eye(4, dtype=np.float32) * 100
    assert (top1(logits, np.arange(4)), calibration_error(logits, np.arange(4))) == (1.0, 0.0)
    wrong = (np.arange(4) + 1) % 4
    assert (top1(logits, wrong), calibration_error(logits, wrong)) == (0.0, 1.0)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_negative_log_likelihood_is_scikit_learns_log_loss(scale: float) -> None:
    logits, labels = predictions(scale=scale)
    known = labels != NO_LABEL
    x = logits[known].astype(np.float64)
    probabilities = np.exp(x - x.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    wanted = log_loss(labels[known], probabilities, labels=range(5))
    assert negative_log_likelihood(logits, labels) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("score", [top1, calibration_error, negative_log_likelihood])
def test_without_labels_there_is_no_score(score) -> None:
    assert math.isnan(score(np.zeros((3, 2), np.float32), np.full(3, NO_LABEL)))


def test_agreement_is_on_the_largest_logit() -> None:
    student, _ = predictions(scale=1.0)
    teacher, _ = predictions(scale=9.0, seed=1)
    assert agreement(student, teacher) == np.mean(
        [s.argmax() == t.argmax() for s, t in zip(student, teacher, strict=True)]
    )
    assert agreement(student, student * 3 + 1) == 1.0
