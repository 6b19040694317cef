"""How far each codec takes targets from what the teacher said: cosine, NMSE and KL on values that are given.

Shape letters: V views, N samples, X anything, D channels, K classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Coding, TopK
from kd_ray.config.outputs import Codec
from kd_ray.errors import ExtractionError

TEMPERATURES = (1.0, 2.0, 4.0)
KEPT_CLASSES = (5, 20, 100)
EXPLAINED_VARIANCES = (0.99, 0.95, 0.9)

Array = NDArray[Any]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """One codec on one output. Cosine and NMSE are of values, None for top_k, which gives probabilities alone.

    Cosine: of vectors over the last axis, each less the mean of the channels. NMSE: the mean squared error of a channel
    over its variance; channels that never vary are left out. KL: of softmax(exact / T) and softmax(decoded / T), in
    nats, mean and 99th percentile by T; empty where values are no logits. `refused`: why nothing could be stored.
    """

    title: str
    bytes_per_view: int
    cosine_mean: float | None = None
    cosine_least: float | None = None
    nmse_mean: float | None = None
    nmse_worst: float | None = None
    kl: dict[float, tuple[float, float]] = field(default_factory=dict)
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return {
            "codec": self.title,
            "bytes_per_view": self.bytes_per_view,
            "cosine": {"mean": self.cosine_mean, "least": self.cosine_least},
            "nmse": {"mean": self.nmse_mean, "worst_channel": self.nmse_worst},
            "kl": {f"{t:g}": {"mean": mean, "p99": p99} for t, (mean, p99) in self.kl.items()},
            "refused": self.refused,
        }


def codings_for(shape: tuple[int, ...], *, is_logits: bool) -> list[Coding]:
    """All that a recipe may ask for, the most exact first; top_k and bases with some numbers and shares to keep."""
    names: list[Codec] = ["float32", "float16", "bfloat16", "int8", *(("uint8",) if is_logits else ())]
    codings = [Coding(codec=name, shape=shape) for name in names]
    if is_logits:
        kept = (k for k in KEPT_CLASSES if k < shape[-1])
        return codings + [Coding(codec="top_k", shape=shape, k=k, temperatures=TEMPERATURES) for k in kept]
    of_bases: list[Codec] = ["float16", "int8"]
    return codings + [
        Coding(codec=name, shape=shape, explained_variance=share) for share in EXPLAINED_VARIANCES for name in of_bases
    ]


def measure(
    coding: Coding,
    parts: Iterable[Array],
    *,
    mean_D: Doubles,
    variance_D: Doubles,
    calibration: Calibration,
    is_logits: bool,
) -> Fidelity:
    """`coding` on values [..., D], part by part, of which `mean_D` and `variance_D` are known."""
    title, bytes_per_view = title_of(coding), coding.as_stored(calibration).bytes_per_view
    tally = _Tally(mean_D)
    for part in parts:
        exact_VN = np.asarray(part, np.float32).reshape(1, -1, *coding.shape)
        try:
            arrays = coding.encode(exact_VN, calibration=calibration, what=title)
        except ExtractionError as error:
            return Fidelity(title=title, bytes_per_view=bytes_per_view, refused=str(error))
        exact_XD = exact_VN.reshape(-1, coding.shape[-1]).astype(np.float64)
        if coding.codec == "top_k":
            top_k = TopK.from_arrays(arrays, coding.temperatures)
            tally.add_divergence(exact_XD, [_dense(top_k, t, exact_XD.shape[-1]) for t in TEMPERATURES])
            continue
        decoded = coding.decode(arrays, calibration=calibration)
        decoded_XD = decoded.reshape(-1, coding.shape[-1]).astype(np.float64)
        tally.add_values(exact_XD, decoded_XD)
        if is_logits:
            tally.add_divergence(exact_XD, [log_softmax(decoded_XD / t) for t in TEMPERATURES])
    return tally.result(title, bytes_per_view, variance_D=variance_D)


def title_of(coding: Coding) -> str:
    """What people call it."""
    if coding.explained_variance is not None:
        return f"{coding.codec}, basis {coding.explained_variance:g}"
    return f"top_k, k = {coding.k}" if coding.codec == "top_k" else str(coding.codec)


class _Tally:
    """Sums over parts."""

    def __init__(self, mean_D: Doubles) -> None:
        self._mean_D = mean_D
        self._squares_D = np.zeros_like(mean_D)
        self._count = 0
        self._cosines: list[Doubles] = []
        self._divergences: list[list[Doubles]] = []

    def add_values(self, exact_XD: Doubles, decoded_XD: Doubles) -> None:
        self._squares_D += ((decoded_XD - exact_XD) ** 2).sum(axis=0)
        self._count += len(exact_XD)
        self._cosines.append(centred_cosine(exact_XD, decoded_XD, mean_D=self._mean_D))

    def add_divergence(self, exact_XK: Doubles, decoded: Sequence[Doubles]) -> None:
        """`decoded` has log-probabilities at each of TEMPERATURES."""
        self._divergences.append(
            [divergence(log_softmax(exact_XK / t), each) for t, each in zip(TEMPERATURES, decoded, strict=True)]
        )

    def result(self, title: str, bytes_per_view: int, *, variance_D: Doubles) -> Fidelity:
        kl = {}
        if self._divergences:
            by_temperature = zip(*self._divergences, strict=True)
            for temperature, parts in zip(TEMPERATURES, by_temperature, strict=True):
                values_X = np.concatenate(parts)
                kl[temperature] = (float(values_X.mean()), float(np.quantile(values_X, 0.99)))
        if not self._cosines:
            return Fidelity(title=title, bytes_per_view=bytes_per_view, kl=kl)
        cosines_X = np.concatenate(self._cosines)
        varies_D = variance_D > 0
        nmse_D = self._squares_D[varies_D] / self._count / variance_D[varies_D]
        return Fidelity(
            title=title,
            bytes_per_view=bytes_per_view,
            cosine_mean=float(cosines_X.mean()),
            cosine_least=float(cosines_X.min()),
            nmse_mean=float(nmse_D.mean()) if len(nmse_D) else 0.0,
            nmse_worst=float(nmse_D.max(initial=0.0)),
            kl=kl,
        )


def centred_cosine(exact_XD: Doubles, decoded_XD: Doubles, *, mean_D: Doubles) -> Doubles:
    """[X]: cosine of both less `mean_D`; 1 where both are zero, 0 where one is."""
    left_XD, right_XD = exact_XD - mean_D, decoded_XD - mean_D
    norms_X = np.linalg.norm(left_XD, axis=-1) * np.linalg.norm(right_XD, axis=-1)
    are_equal_X = (left_XD == right_XD).all(axis=-1)
    cosines_X = (left_XD * right_XD).sum(axis=-1) / np.where(norms_X > 0, norms_X, 1.0)
    result_X: Doubles = np.where(are_equal_X, 1.0, np.clip(cosines_X, -1.0, 1.0))
    return result_X


def log_softmax(logits_XK: Doubles) -> Doubles:
    """Over the last axis, in float64."""
    lowered_XK: Doubles = logits_XK - logits_XK.max(axis=-1, keepdims=True)
    result_XK: Doubles = lowered_XK - np.log(np.exp(lowered_XK).sum(axis=-1, keepdims=True))
    return result_XK


def divergence(exact_XK: Doubles, decoded_XK: Doubles) -> Doubles:
    """[X]: KL(exact || decoded) of log-probabilities, in nats; rounding below zero counts as zero."""
    result_X: Doubles = np.maximum((np.exp(exact_XK) * (exact_XK - decoded_XK)).sum(axis=-1), 0.0)
    return result_X


def _dense(top_k: TopK, temperature: float, num_classes: int) -> Doubles:
    """Log-probabilities [X, K] at one temperature; those that are not kept share the rest equally."""
    k = top_k.values.shape[-1]
    log_sum = top_k.log_sum_exp[..., top_k.temperatures.index(temperature)].astype(np.float64)[..., None]
    kept = top_k.values.astype(np.float64) / temperature - log_sum
    rest = np.maximum(1.0 - np.exp(kept).sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    filled = np.broadcast_to(np.log(rest / (num_classes - k)), (*kept.shape[:-1], num_classes)).copy()
    np.put_along_axis(filled, top_k.indices.astype(np.int64), kept, axis=-1)
    return filled.reshape(-1, num_classes)
