"""What frozen features are worth: a kNN vote and a linear probe, learnt on one split and scored on another.

Shape letters: N samples, M samples that are scored, D width, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_ray.evaluate.scores import NO_LABEL

# those of DINO's evaluation (Caron et al. 2021)
KNN_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07
ROWS_AT_A_TIME = 1024
PROBE_ITERATIONS = 2000
MIN_NORM = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFeatures:
    """Features [N, D] in float32 and labels [N], all of them known."""

    features_ND: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def known(cls, features_ND: NDArray[np.float32], labels: NDArray[np.int64]) -> "LabelledFeatures":
        """Of the samples that have a label."""
        known = labels != NO_LABEL
        return cls(features_ND=features_ND[known].astype(np.float32), labels=labels[known])


def feature_scores(learnt: LabelledFeatures, scored: LabelledFeatures) -> dict[str, float]:
    """`knn_top1` and `probe_top1` of `scored`; without labels to learn from or to score, nothing."""
    if not len(learnt.labels) or not len(scored.labels):
        return {}
    scores = {"knn_top1": knn_top1(learnt, scored)}
    if len(np.unique(learnt.labels)) > 1:
        scores["probe_top1"] = probe_top1(learnt, scored)
    return scores


def knn_top1(
    learnt: LabelledFeatures,
    scored: LabelledFeatures,
    *,
    num_neighbours: int = KNN_NEIGHBOURS,
    temperature: float = KNN_TEMPERATURE,
) -> float:
    """Share of samples whose nearest neighbours by cosine, each with exp(cosine / temperature) votes, name their class.

    Wu et al. 2018, as in DINO's evaluation. Of classes with equal votes the first one wins.
    """
    bank_ND = _normalised(learnt.features_ND)
    kept = min(num_neighbours, len(bank_ND))
    classes, class_of = np.unique(learnt.labels, return_inverse=True)
    correct = 0
    for start in range(0, len(scored.labels), ROWS_AT_A_TIME):
        labels = scored.labels[start : start + ROWS_AT_A_TIME]
        cosines_MN = _normalised(scored.features_ND[start : start + ROWS_AT_A_TIME]) @ bank_ND.T
        nearest_Mk = np.argpartition(-cosines_MN, kept - 1, axis=1)[:, :kept]
        cosines_Mk = np.take_along_axis(cosines_MN, nearest_Mk, axis=1)
        # less the greatest, which changes no vote's share and cannot overflow
        votes_Mk = np.exp((cosines_Mk - cosines_Mk.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
        votes_MC = np.zeros((len(labels), len(classes)))
        np.add.at(votes_MC, (np.arange(len(labels))[:, None], class_of[nearest_Mk]), votes_Mk)
        correct += int((classes[votes_MC.argmax(axis=1)] == labels).sum())
    return correct / len(scored.labels)


def probe_top1(learnt: LabelledFeatures, scored: LabelledFeatures) -> float:
    """Top-1 of scikit-learn's logistic regression (L2, C = 1) on channels standardised over `learnt`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PROBE_ITERATIONS))
    probe.fit(learnt.features_ND.astype(np.float64), learnt.labels)
    return float((probe.predict(scored.features_ND.astype(np.float64)) == scored.labels).mean())


def _normalised(features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(features_ND, axis=1, keepdims=True)
    unit_ND: NDArray[np.float32] = features_ND / np.maximum(norms, MIN_NORM)
    return unit_ND
