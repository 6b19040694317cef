"""View params: one draw from a view policy, replayable at any size, with an exact JSON form."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kd_ray.errors import CacheCorrupt
from kd_ray.storage.base import canonical_json


@dataclass(frozen=True, slots=True, kw_only=True)
class CropParams:
    """A box in fractions of the upright image's width (`left`, `width`) and height (`top`, `height`)."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterCropParams:
    """The largest centred box of the wanted aspect ratio, times `crop_fraction`; a box only once a size is given."""

    crop_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipParams:
    """Whether left and right are exchanged."""

    flipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterParams:
    """Factors (1 = unchanged), a hue shift in turns, and the order of the four (0 = brightness … 3 = hue).

    Where `applied` is false, the values are neutral.
    """

    applied: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...]


Crop = CropParams | CenterCropParams
OperationParams = CropParams | CenterCropParams | FlipParams | JitterParams
ViewParams = tuple[OperationParams, ...]
"""One entry per operation of the policy, in its order; the first is the crop."""


def params_to_json(params: ViewParams) -> str:
    """Canonical JSON; floats in their shortest exact form, so that reading gives the same bits back."""
    return canonical_json([{"kind": _kind(each), **dataclasses.asdict(each)} for each in params]).decode()


def params_from_json(text: str) -> ViewParams:
    """The params that `params_to_json` wrote.

    Raises:
        CacheCorrupt: `text` is something else.
    """
    try:
        return tuple(_operation(**fields) for fields in json.loads(text))
    except (ValueError, TypeError) as error:
        raise CacheCorrupt(
            f"view params: not as written by this version of kd_ray ({error}): {text[:200]!r}. "
            "Read them with the version that wrote them, or build a new view set."
        ) from error


def _kind(params: OperationParams) -> str:
    match params:
        case CropParams():
            return "crop"
        case CenterCropParams():
            return "center_crop"
        case FlipParams():
            return "flip"
        case JitterParams():
            return "jitter"


def _operation(*, kind: str, **fields: Any) -> OperationParams:
    match kind:
        case "crop":
            return CropParams(**fields)
        case "center_crop":
            return CenterCropParams(**fields)
        case "flip":
            return FlipParams(**fields)
        case "jitter":
            return JitterParams(**{**fields, "order": tuple(fields.get("order", ()))})
        case _:
            raise ValueError(f"unknown kind {kind!r}")
