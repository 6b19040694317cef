"""View params: one draw from a view policy, replayable at any size, with an exact JSON form."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kd_ray.config.colors import Color
from kd_ray.config.operations import Interpolation
from kd_ray.errors import CacheCorrupt
from kd_ray.storage.base import canonical_json

StepName = Literal[
    "flip_vertical",
    "add",
    "multiply",
    "hsv_saturation",
    "hue",
    "gray",
    "gaussian_blur",
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "solarize",
    "solarize_add",
    "posterize",
    "equalize",
    "autocontrast",
    "invert",
    "affine",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "perspective",
    "erase",
]


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
class PaddedCropParams:
    """A box as in `CropParams` that may reach beyond the image: what lies there is `fill` (red, green, blue)."""

    left: float
    top: float
    width: float
    height: float
    fill: Color


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePadParams:
    """The smallest centred box of the wanted aspect ratio around the image; a box only once a size is given."""

    fill: Color


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplingParams:
    """The kernel that resamples the crop, whatever the reader's own."""

    interpolation: Interpolation


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of pixels; what `values` and `option` mean is said where it is rendered (`kd_ray.views.steps`)."""

    name: StepName
    values: tuple[float, ...]
    option: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsParams:
    """What one operation of a policy does to the view, in order; nothing where it is not applied."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxParams:
    """A box in fractions of a view's width (`left`, `width`) and height (`top`, `height`)."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixParams:
    """The view of another sample, itself not mixed, that this one is mixed with.

    `weight` is this view's share, of the label too. With a `box` (CutMix) the partner is pasted there, else (Mixup) all
    pixels are weighted.
    """

    partner: int
    partner_params: "ViewParams"
    weight: float
    box: BoxParams | None


Crop = CropParams | CenterCropParams | PaddedCropParams | ResizePadParams
OperationParams = Crop | FlipParams | JitterParams | ResamplingParams | StepsParams | MixParams
ViewParams = tuple[OperationParams, ...]
"""One entry per operation of the policy, in its order; the first is the crop, the last may be a mix."""


def mix_of(params: ViewParams) -> MixParams | None:
    """How a view is mixed; None where it is not."""
    last = params[-1] if params else None
    return last if isinstance(last, MixParams) else None


def params_to_json(params: ViewParams) -> str:
    """Canonical JSON; floats in their shortest exact form, so that reading gives the same bits back."""
    return canonical_json(_as_json(params)).decode()


def params_from_json(text: str) -> ViewParams:
    """The params that `params_to_json` wrote.

    Raises:
        CacheCorrupt: `text` is something else.
    """
    try:
        return _from_json(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise CacheCorrupt(
            f"view params: not as written by this version of kd_ray ({error}): {text[:200]!r}. "
            "Read them with the version that wrote them, or build a new view set."
        ) from error


def _as_json(params: ViewParams) -> list[dict[str, Any]]:
    rows = [{"kind": _kind(each), **dataclasses.asdict(each)} for each in params]
    mix = mix_of(params)
    if mix is not None:
        rows[-1]["partner_params"] = _as_json(mix.partner_params)
    return rows


def _from_json(rows: list[dict[str, Any]]) -> ViewParams:
    return tuple(_operation(**fields) for fields in rows)


def _kind(params: OperationParams) -> str:
    match params:
        case CropParams():
            return "crop"
        case CenterCropParams():
            return "center_crop"
        case PaddedCropParams():
            return "padded_crop"
        case ResizePadParams():
            return "resize_pad"
        case FlipParams():
            return "flip"
        case JitterParams():
            return "jitter"
        case ResamplingParams():
            return "resampling"
        case StepsParams():
            return "steps"
        case MixParams():
            return "mix"


def _operation(*, kind: str, **fields: Any) -> OperationParams:
    match kind:
        case "crop":
            return CropParams(**fields)
        case "center_crop":
            return CenterCropParams(**fields)
        case "padded_crop":
            return PaddedCropParams(**{**fields, "fill": _color(fields["fill"])})
        case "resize_pad":
            return ResizePadParams(**{**fields, "fill": _color(fields["fill"])})
        case "flip":
            return FlipParams(**fields)
        case "jitter":
            return JitterParams(**{**fields, "order": tuple(fields.get("order", ()))})
        case "resampling":
            return _resampling(**fields)
        case "steps":
            return StepsParams(steps=tuple(_step(**each) for each in fields.pop("steps")), **fields)
        case "mix":
            box = None if fields.get("box") is None else BoxParams(**fields["box"])
            return MixParams(**{**fields, "partner_params": _from_json(fields["partner_params"]), "box": box})
        case _:
            raise ValueError(f"unknown kind {kind!r}")


def _color(levels: list[int]) -> Color:
    red, green, blue = levels
    return red, green, blue


def _resampling(*, interpolation: Interpolation) -> ResamplingParams:
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"unknown interpolation {interpolation!r}")
    return ResamplingParams(interpolation=interpolation)


def _step(*, name: StepName, values: list[float], option: str | None) -> Step:
    if name not in get_args(StepName):
        raise ValueError(f"unknown step {name!r}")
    return Step(name=name, values=tuple(values), option=option)
