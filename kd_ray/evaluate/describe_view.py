"""View params in short words, for people; their JSON is what holds every digit."""

import math

from kd_ray.telemetry.units import counted
from kd_ray.views import (
    BoxParams,
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    PaddedCropParams,
    ResamplingParams,
    ResizePadParams,
    Step,
    StepsParams,
    ViewParams,
)
from kd_ray.views.params import OperationParams

BETWEEN = " · "
JITTERS = ("brightness", "contrast", "saturation", "hue")  # by their number in JitterParams.order
HUE = 3
CORNERS = (0, 0, 1, 0, 1, 1, 0, 1)  # x and y, clockwise from the upper left
ID_DIGITS = 8


def describe(params: ViewParams) -> str:
    """`crop 0.12,0.30 0.55×0.41 · flipped · hue +12.2°`: what was done to the image, in its order; what left it alone
    as far as these digits go is not told. Boxes are left,top width×height in fractions, factors follow a ×, shifts and
    blurs are in % of a side, and what fills the places from outside is told by the JSON alone.
    """
    return BETWEEN.join(words for operation in params for words in _words(operation))


def short_id(sample_id: int) -> str:
    """The first half of a sample id in hexadecimal digits: enough to find it among those on one sheet."""
    return f"{sample_id:016x}"[:ID_DIGITS]


def _words(operation: OperationParams) -> list[str]:
    """One text a thing that was done; none where nothing was."""
    match operation:
        case CropParams() | PaddedCropParams():
            return [f"crop {_box(operation)}"]
        case ResizePadParams():
            return ["whole image, padded"]
        case CenterCropParams():
            return ["centre crop" if operation.crop_fraction == 1 else f"centre crop {operation.crop_fraction:.2f}"]
        case FlipParams():
            return ["flipped"] if operation.flipped else []
        case JitterParams():
            return _jitters(operation)
        case ResamplingParams():
            return [f"{operation.interpolation} kernel"]
        case StepsParams():
            return [words for step in operation.steps for words in _step(step)]
        case MixParams():
            return [_mix(operation)]


def _box(box: CropParams | PaddedCropParams | BoxParams) -> str:
    return f"{box.left:.2f},{box.top:.2f} {box.width:.2f}×{box.height:.2f}"


def _jitters(jitter: JitterParams) -> list[str]:
    told = []
    for number in jitter.order if jitter.applied else ():
        name, value = JITTERS[number], getattr(jitter, JITTERS[number])
        told += _hue(value) if number == HUE else _factor(name, value)
    return told


def _factor(name: str, factor: float) -> list[str]:
    told = f"{factor:.2f}"
    return [] if told == "1.00" else [f"{name} ×{told}"]


def _hue(turns: float) -> list[str]:
    return _signed("hue", 360 * turns, "°")


def _signed(name: str, value: float, unit: str) -> list[str]:
    told = f"{value:+.1f}"
    return [] if float(told) == 0 else [f"{name} {told}{unit}"]


def _step(step: Step) -> list[str]:
    """Warps with their kernel, and what is left out of them where it is nothing."""
    name, values = step.name.replace("_", " "), step.values
    match step.name:
        case "flip_vertical" | "gray" | "equalize" | "autocontrast" | "invert":
            return [name]
        case "multiply" | "hsv_saturation" | "brightness" | "contrast" | "saturation" | "sharpness":
            return _factor(name.replace("hsv", "HSV"), values[0])
        case "hue":
            return _hue(values[0])
        case "add" | "solarize_add":
            return _signed(name, values[0], " levels")
        case "solarize":
            return [f"solarize from level {values[0]:.0f}"]
        case "posterize":
            return [f"posterize to {counted(int(values[0]), 'bit')}"]
        case "gaussian_blur":
            return [f"Gaussian blur of {_percent(values[0])} of the side"]
        case "erase":
            left, top, width, height = values[:4]
            return [f"erased {_box(BoxParams(left=left, top=top, width=width, height=height))} ({step.option})"]
        case _:
            moved = _moved(step)
            return [f"{', '.join(moved)} ({step.option})"] if moved else []


def _moved(step: Step) -> list[str]:
    """How a warp moves the view: angles in degrees, shifts in % of the side."""
    name, value = step.name.replace("_", " "), step.values[0]
    match step.name:
        case "rotate":
            return _signed(name, value, "°")
        case "shear_x" | "shear_y":
            return _signed(name, math.degrees(math.atan(value)), "°")
        case "translate_x" | "translate_y":
            return _signed(name, 100 * value, " %")
        case "perspective":
            moves = [abs(to - at) for to, at in zip(step.values[:8], CORNERS, strict=True)]
            return [f"perspective by up to {_percent(max(moves))}"]
        case _:
            degrees, shift_x, shift_y, scale, shear_x, shear_y = step.values[:6]
            return [
                *_signed("rotate", degrees, "°"),
                *_signed("translate x", 100 * shift_x, " %"),
                *_signed("translate y", 100 * shift_y, " %"),
                *_factor("scale", scale),
                *_signed("shear x", shear_x, "°"),
                *_signed("shear y", shear_y, "°"),
            ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "less than 0.1 %"


def _mix(mix: MixParams) -> str:
    kind, place = ("mixup", "") if mix.box is None else ("cutmix", f" at {_box(mix.box)}")
    partner = f"sample {short_id(mix.partner)} ({describe(mix.partner_params)})"
    if mix.weight in (0.0, 1.0):
        return f"{kind}: all this, nothing of {partner}" if mix.weight else f"{kind}: nothing of this, all {partner}"
    return f"{kind}: {_percent(mix.weight)} this + {_percent(1 - mix.weight)} {partner}{place}"
