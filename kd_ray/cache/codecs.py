"""How the numbers of an output are stored, what cannot be stored, and the numbers again.

| codec | arrays, each [view, sample, …] | value |
|---|---|---|
| float32, float16 | `values` | as stored |
| bfloat16 | `values`, uint16 | the upper half of a float32 |
| int8 | `values`, int8; `scale`, float16, one a token | code * scale * deviation + mean, by channel |
| uint8 | `values`, uint8; `maximum`, `step`, float32, one a token | maximum - code * step |
| top_k | `indices` and `values`, float16, of the k greatest; `maximum`; `log_sum_exp`, one a temperature | see `TopK` |

With a basis, these are of the coefficients [view, sample, …, k], from which the values follow.

A token is one vector over the last axis. Shape letters: V views, N samples, X anything, D channels, K classes, k kept
classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.basis import RECIPE as BASIS_RECIPE
from kd_ray.cache.calibration import Calibration
from kd_ray.cache.floats import extremes, row_blocks, to_float16
from kd_ray.config.outputs import Codec, TargetOutput
from kd_ray.errors import ExtractionError

FLOAT16_MAX = 65504.0
INT8_MAX, UINT8_MAX = 127, 255

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """A codec with all that decides its bytes; `shape` is that of one view's values as the teacher gives them.

    With `explained_variance` the codec stores coefficients in a basis that explains such a share.
    """

    codec: Codec
    shape: tuple[int, ...]
    k: int | None = None
    temperatures: tuple[float, ...] = ()
    explained_variance: float | None = None

    @staticmethod
    def of(output: TargetOutput, shape: tuple[int, ...]) -> "Coding":
        """As a recipe asks for it."""
        return Coding(
            codec=output.codec,
            shape=shape,
            k=output.k,
            temperatures=output.temperatures or (),
            explained_variance=None if output.basis is None else output.basis.explained_variance,
        )

    @staticmethod
    def from_identity(identity: Mapping[str, Any]) -> "Coding":
        """As an output's identity has it."""
        return Coding(
            codec=identity["codec"],
            shape=tuple(identity["shape"]),
            k=identity.get("k"),
            temperatures=tuple(identity.get("temperatures", ())),
            explained_variance=identity.get("basis", {}).get("explained_variance"),
        )

    def identity(self) -> dict[str, Any]:
        """What of it is not the same for all outputs of that codec."""
        if self.codec == "top_k":
            return {"k": self.k, "temperatures": list(self.temperatures)}
        identity: dict[str, Any] = {"calibration": Calibration.RECIPE} if self.codec == "int8" else {}
        if self.explained_variance is not None:
            identity["basis"] = {"explained_variance": self.explained_variance, "recipe": BASIS_RECIPE}
        return identity

    @property
    def needs_calibration(self) -> bool:
        """Whether means and deviations by channel, or a basis, must be known before anything is stored."""
        return self.codec == "int8" or self.explained_variance is not None

    def calibrate(self, values: Floats, *, what: str) -> Calibration:
        """What it is to be fixed from values [..., D].

        Raises:
            ExtractionError: they are too few for a basis; `what` says whose.
        """
        if self.explained_variance is None:
            return Calibration.of(values)
        return Calibration.with_basis(values, explained_variance=self.explained_variance, what=what)

    def as_stored(self, calibration: Calibration | None) -> "Coding":
        """That of the coefficients where there is a basis; else, or as long as it is not fixed, the same."""
        if calibration is None or calibration.basis is None:
            return self
        num_coefficients = len(calibration.basis.directions_kD)
        return replace(self, shape=(*self.shape[:-1], num_coefficients), explained_variance=None)

    @property
    def bytes_per_view(self) -> int:
        """What one view of one sample takes, without checksums; with a basis that is not fixed, at most."""
        num_tokens = prod(self.shape[:-1])
        match self.codec:
            case "float32":
                return 4 * prod(self.shape)
            case "float16" | "bfloat16":
                return 2 * prod(self.shape)
            case "int8":
                return prod(self.shape) + 2 * num_tokens
            case "uint8":
                return prod(self.shape) + 8 * num_tokens
            case "top_k":
                width = _index_type(self.shape[-1]).itemsize + 2
                return num_tokens * ((self.k or 0) * width + 4 + 4 * len(self.temperatures))

    def encode(self, values_VND: Floats, *, calibration: Calibration | None, what: str) -> dict[str, Array]:
        """The arrays of values [view, sample, …] by name.

        Raises:
            ExtractionError: a value is not finite, or does not fit; `what` says whose.
        """
        refuse_not_finite(values_VND, what=what)
        if self.explained_variance is not None:
            assert calibration is not None
            assert calibration.basis is not None
            coefficients = calibration.basis.coefficients(values_VND)
            return self.as_stored(calibration).encode(coefficients, calibration=calibration, what=what)
        match self.codec:
            case "float32":
                return {"values": values_VND.astype("<f4")}
            case "float16":
                _refuse_beyond_float16(values_VND, what=what)
                return {"values": to_float16(values_VND)}
            case "bfloat16":
                return {"values": _to_bfloat16(values_VND)}
            case "int8":
                assert calibration is not None
                return _to_int8(values_VND, calibration, what=what)
            case "uint8":
                return _to_uint8(values_VND, what=what)
            case "top_k":
                assert self.k is not None
                return TopK.of(values_VND, k=self.k, temperatures=self.temperatures).arrays()

    def decode(self, arrays: Mapping[str, Array], *, calibration: Calibration | None) -> Array:
        """The values [sample, …] of encoded ones; float32, but float16 stays what it is.

        Of top_k: log-probabilities at temperature 1, what is not kept sharing the rest equally.
        """
        if self.explained_variance is not None:
            assert calibration is not None
            assert calibration.basis is not None
            coefficients = self.as_stored(calibration).decode(arrays, calibration=calibration)
            return calibration.basis.values(coefficients)
        match self.codec:
            case "float32" | "float16":
                return arrays["values"]
            case "bfloat16":
                return (arrays["values"].astype("<u4") << 16).view(np.float32)
            case "int8":
                assert calibration is not None
                scaled = arrays["values"].astype(np.float32) * arrays["scale"].astype(np.float32)[..., None]
                return scaled * calibration.deviation_D + calibration.mean_D
            case "uint8":
                steps = arrays["values"].astype(np.float32) * arrays["step"][..., None]
                return arrays["maximum"][..., None] - steps
            case "top_k":
                return TopK.from_arrays(arrays, self.temperatures).dense(self.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The k greatest of K logits v, and the exact log-sum-exp of all of them over each temperature.

    `values` are v - max(v), greatest first, and `log_sum_exp` is that of (v - max(v)) / T, so that float16 is exact at
    the top, where the probabilities are; `maximum` gives v back. exp(values / T - log_sum_exp) is softmax over all K.
    """

    indices: Array
    values: Array
    maximum: Array
    log_sum_exp: Array
    temperatures: tuple[float, ...]

    @staticmethod
    def of(logits_XK: Floats, *, k: int, temperatures: Sequence[float]) -> "TopK":
        """Of logits [..., K]; of equal ones the first are kept."""
        order = np.argsort(-logits_XK, axis=-1, kind="stable")[..., :k]
        maximum = np.take_along_axis(logits_XK, order[..., :1], axis=-1)
        lowered = logits_XK.astype(np.float64) - maximum
        sums = [np.log(np.exp(lowered / temperature).sum(axis=-1)) for temperature in temperatures]
        kept = np.take_along_axis(lowered, order, axis=-1)
        return TopK(
            indices=order.astype(_index_type(logits_XK.shape[-1])),
            values=np.maximum(kept, -FLOAT16_MAX).astype("<f2"),
            maximum=maximum[..., 0].astype("<f4"),
            log_sum_exp=np.stack(sums, axis=-1).astype("<f4"),
            temperatures=tuple(temperatures),
        )

    def arrays(self) -> dict[str, Array]:
        """As stored."""
        return {
            "indices": self.indices,
            "values": self.values,
            "maximum": self.maximum,
            "log_sum_exp": self.log_sum_exp,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array], temperatures: Sequence[float]) -> "TopK":
        """The inverse of `arrays`."""
        return TopK(**{name: arrays[name] for name in TOP_K_ARRAYS}, temperatures=tuple(temperatures))

    def dense(self, num_classes: int) -> Floats:
        """Log-probabilities [..., K] at temperature 1, which is always stored; the others share the rest equally."""
        log_sum = self.log_sum_exp[..., self.temperatures.index(1.0)].astype(np.float64)[..., None]
        kept = self.values.astype(np.float64) - log_sum
        num_others = num_classes - self.values.shape[-1]
        rest = np.maximum(1.0 - np.exp(kept).sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        filled = np.broadcast_to(np.log(rest / max(num_others, 1)), (*kept.shape[:-1], num_classes)).astype(np.float32)
        np.put_along_axis(filled, self.indices.astype(np.int64), kept.astype(np.float32), axis=-1)
        return filled


TOP_K_ARRAYS = ("indices", "values", "maximum", "log_sum_exp")


def _index_type(num_classes: int) -> np.dtype[Any]:
    """The least that holds every class."""
    return np.dtype("u1" if num_classes <= 1 << 8 else "<u2" if num_classes <= 1 << 16 else "<u4")


def refuse_not_finite(values_VND: Floats, *, what: str) -> None:
    """Raise ExtractionError where a value of [view, row, …] is not finite; `what` says whose."""
    if np.isfinite(extremes(values_VND)).all():  # both are NaN where any value is
        return
    bad_VN = ~np.isfinite(values_VND).all(axis=tuple(range(2, values_VND.ndim)))
    places = ", ".join(f"{view}/{row}" for view, row in np.argwhere(bad_VN)[:5])
    raise ExtractionError(
        f"{what}: {bad_VN.sum()} of {bad_VN.size} outputs are not finite; the first, as view/row of the unit "
        f"counted from 0: {places}. Check the teacher's weights and precision."
    )


def _refuse_beyond_float16(values_VND: Floats, *, what: str) -> None:
    largest = max(map(abs, extremes(values_VND)))
    if largest > FLOAT16_MAX:
        raise ExtractionError(
            f"{what}: {largest:.3g} does not fit float16 (65504). Set the output's codec: bfloat16, or float32."
        )


def _to_bfloat16(values: Floats) -> Array:
    """The upper halves, rounded to nearest, ties to even; no finite value becomes infinite."""
    bits = values.astype("<f4").view("<u4")
    rounded: NDArray[np.uint32] = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    rounded -= (rounded & 0x7FFF) == 0x7F80
    return rounded.astype("<u2")


def _to_int8(values_XD: Floats, calibration: Calibration, *, what: str) -> dict[str, Array]:
    """Standardised by channel, then by the greatest of each token; a scale is rounded up, so that no code is cut."""
    rows_TD = values_XD.reshape(-1, values_XD.shape[-1])
    codes_TD = np.empty(rows_TD.shape, dtype=np.int8)
    scale_T = np.empty(len(rows_TD), dtype="<f2")
    for part in row_blocks(rows_TD):
        standard_TD = (rows_TD[part] - calibration.mean_D) / calibration.deviation_D
        scale_T[part] = _scale_of(standard_TD, what=what)
        divisor_T1 = np.where(scale_T[part] > 0, scale_T[part], 1).astype(np.float32)[:, None]
        codes_TD[part] = np.rint(np.divide(standard_TD, divisor_T1, out=standard_TD), out=standard_TD)
    return {"values": codes_TD.reshape(values_XD.shape), "scale": scale_T.reshape(values_XD.shape[:-1])}


def _scale_of(standard_TD: Floats, *, what: str) -> Array:
    greatest_T = np.maximum(standard_TD.max(axis=-1, initial=0.0), -standard_TD.min(axis=-1, initial=0.0))
    exact_T = greatest_T / np.float32(INT8_MAX)
    if not exact_T.max(initial=0.0) < FLOAT16_MAX:
        raise ExtractionError(
            f"{what}: a value lies {INT8_MAX * exact_T.max():.3g} deviations from its channel's mean in the "
            "calibration, too far for int8. Set the output's codec: float16."
        )
    scale_T = exact_T.astype("<f2")
    rounded_up_T: Array = np.where(scale_T < exact_T, np.nextafter(scale_T, np.float16(np.inf)), scale_T).astype("<f2")
    return rounded_up_T


def _to_uint8(values_XK: Floats, *, what: str) -> dict[str, Array]:
    """In equal steps down from the greatest, which stays exact: softmax looks there."""
    if np.abs(values_XK).max(initial=0.0) > np.finfo(np.float32).max / 4:
        raise ExtractionError(f"{what}: values of up to 3e38 have no uint8 steps. Set the output's codec: float32.")
    maximum_X = values_XK.max(axis=-1)
    step_X = ((maximum_X - values_XK.min(axis=-1)) / np.float32(UINT8_MAX)).astype("<f4")
    divisor_X1 = np.where(step_X > 0, step_X, 1)[..., None]
    codes = np.clip(np.rint((maximum_X[..., None] - values_XK) / divisor_X1), 0, UINT8_MAX)
    return {"values": codes.astype(np.uint8), "maximum": maximum_X.astype("<f4"), "step": step_X}
