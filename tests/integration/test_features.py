"""kNN and the linear probe against scikit-learn, and where the answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from kd_ray.evaluate.features import LabelledFeatures, feature_scores, knn_top1, probe_top1
from kd_ray.evaluate.scores import NO_LABEL

NUM_CLASSES = 4


def clouds(count: int, *, spread: float, seed: int) -> LabelledFeatures:
    """Points around one direction for each class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, NUM_CLASSES, count)
    features = np.eye(NUM_CLASSES, 6)[labels] + spread * random.normal(size=(count, 6))
    return LabelledFeatures.known(features.astype(np.float32), labels)


@pytest.mark.parametrize("num_neighbours", [1, 20])
@pytest.mark.parametrize("spread", [0.4, 1.0])
def test_neighbours_vote_as_in_scikit_learn(spread: float, num_neighbours: int) -> None:
    learnt, scored = clouds(300, spread=spread, seed=0), clouds(200, spread=spread, seed=1)

    def votes(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp((1 - distances) / 0.07)

    oracle = KNeighborsClassifier(num_neighbours, metric="cosine", weights=votes, algorithm="brute")
    oracle.fit(learnt.features_ND.astype(np.float64), learnt.labels)
    wanted = (oracle.predict(scored.features_ND.astype(np.float64)) == scored.labels).mean()
    assert 0.3 < wanted < 1
    assert knn_top1(learnt, scored, num_neighbours=num_neighbours) == pytest.approx(wanted, abs=1e-12)


def test_length_of_a_feature_does_not_matter_to_its_neighbours() -> None:
    learnt, scored = clouds(100, spread=0.5, seed=0), clouds(50, spread=0.5, seed=1)
    longer = LabelledFeatures(features_ND=scored.features_ND * 1000, labels=scored.labels)
    assert knn_top1(learnt, longer) == knn_top1(learnt, scored)


def test_bank_smaller_than_the_number_of_neighbours_votes_whole() -> None:
    learnt = LabelledFeatures.known(np.eye(3, dtype=np.float32), np.arange(3))
    assert knn_top1(learnt, learnt) == 1.0


def test_probe_separates_what_a_plane_separates_and_nothing_else() -> None:
    learnt, scored = clouds(200, spread=0.05, seed=0), clouds(100, spread=0.05, seed=1)
    assert probe_top1(learnt, scored) == 1.0
    shuffled = LabelledFeatures(
        features_ND=learnt.features_ND, labels=np.random.default_rng(0).permutation(learnt.labels)
    )
    assert probe_top1(shuffled, scored) < 0.6


def test_probe_finds_a_channel_that_is_small_beside_the_others() -> None:
    """Its channels are standardised: as they are, C = 1 would leave the small one unused."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = np.column_stack([1e3 * random.normal(size=200), 1e-3 * (labels - 0.5)]).astype(np.float32)
    points = LabelledFeatures.known(features, labels)
    assert probe_top1(points, points) == 1.0


def test_without_labels_nothing_is_scored() -> None:
    points = clouds(20, spread=0.1, seed=0)
    nothing = LabelledFeatures.known(points.features_ND, np.full(20, NO_LABEL))
    assert feature_scores(nothing, points) == feature_scores(points, nothing) == {}


def test_one_class_has_neighbours_but_no_plane() -> None:
    points = LabelledFeatures.known(np.eye(3, dtype=np.float32), np.zeros(3, np.int64))
    assert feature_scores(points, points) == {"knn_top1": 1.0}
