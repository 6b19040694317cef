"""What samples weigh: by how many there are of their label, or by how many equal images they stand for."""

import math

import numpy as np
import pytest

from kd_ray.config.train import DataWeightMode
from kd_ray.training.weights import frequency_weight, weigh

LABELS = np.array([2, 0, 2, -1, 2, 0, -1, 7], np.int32)
COPIES = np.array([1, 1, 3, 2, 1, 3, 1, 1], np.int32)


@pytest.mark.parametrize(
    ("mode", "weight"),
    [
        ("none", 1.0),
        ("inv_frequency", 1 / 5),
        ("inv_sq_frequency", 1 / 25),
        ("inv_log_frequency", 1 / math.log(6)),
    ],
)
def test_one_of_five_equal_things_weighs(mode: DataWeightMode, weight: float) -> None:
    assert frequency_weight(mode, 5) == weight


def test_by_label_a_sample_weighs_by_the_size_of_its_class() -> None:
    found = weigh("inv_frequency", "label", labels=LABELS, copies=COPIES)
    assert [found.weights[group] for group in found.groups] == [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 2, 1.0]


def test_samples_without_a_label_are_a_class_of_their_own() -> None:
    groups = weigh("inv_frequency", "label", labels=LABELS, copies=COPIES).groups
    assert {tuple(np.flatnonzero(groups == group).tolist()) for group in groups} == {(0, 2, 4), (1, 5), (3, 6), (7,)}


@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("none", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("inv_frequency", [1, 1, 1, 1, 1, 1, 1, 1]),  # c copies of weight 1/c
        ("inv_sq_frequency", [1, 1, 1 / 3, 1 / 2, 1, 1 / 3, 1, 1]),
    ],
)
def test_by_duplicates_a_sample_weighs_as_all_its_copies_together(mode: DataWeightMode, weights: list[float]) -> None:
    found = weigh(mode, "duplicates", labels=LABELS, copies=COPIES)
    np.testing.assert_allclose([found.weights[group] for group in found.groups], weights)
