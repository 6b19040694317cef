"""View params in short words, for people; their JSON is what holds every digit."""

import dataclasses
import re

from kd_ray.views import (
    BoxParams,
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    ResamplingParams,
    Step,
    StepsParams,
    ViewParams,
)

BETWEEN = " · "
JITTERS = ("brightness", "contrast", "saturation", "hue")  # by their number in JitterParams.order
HUE = 3
ID_DIGITS = 8


def describe(params: ViewParams) -> str:
    """`crop 0.12,0.30 0.55×0.41 · flipped · hue +0.03`: what was done to the image, in its order; what left it alone is
    not told. Boxes are left,top width×height in fractions, factors follow a ×, hue is in turns.
    """
    return BETWEEN.join(words for operation in params for words in _words(operation))


def short_id(sample_id: int) -> str:
    """The first half of a sample id in hexadecimal digits: enough to find it among those on one sheet."""
    return f"{sample_id:016x}"[:ID_DIGITS]


def _words(operation: object) -> list[str]:
    """One text a thing that was done; none where nothing was."""
    match operation:
        case CropParams():
            return [f"crop {_box(operation)}"]
        case CenterCropParams():
            return ["centre crop" if operation.crop_fraction == 1 else f"centre crop {operation.crop_fraction:.2f}"]
        case FlipParams():
            return ["flipped"] if operation.flipped else []
        case JitterParams():
            return _jitters(operation)
        case ResamplingParams():
            return [f"{operation.interpolation} kernel"]
        case StepsParams():
            return [_step(step) for step in operation.steps]
        case MixParams():
            return [_mix(operation)]
        case _:
            return _any(operation)


def _box(box: CropParams | BoxParams) -> str:
    return f"{box.left:.2f},{box.top:.2f} {box.width:.2f}×{box.height:.2f}"


def _jitters(jitter: JitterParams) -> list[str]:
    told = []
    for number in jitter.order if jitter.applied else ():
        value: float = getattr(jitter, JITTERS[number])
        if number == HUE and value:
            told.append(f"hue {value:+.2f}")
        elif number != HUE and value != 1:
            told.append(f"{JITTERS[number]} ×{value:.2f}")
    return told


def _step(step: Step) -> str:
    option = [] if step.option is None else [f"({step.option})"]
    return " ".join([step.name.replace("_", " "), *(_value(value) for value in step.values), *option])


def _mix(mix: MixParams) -> str:
    kind, place = ("mixup", "") if mix.box is None else ("cutmix", f" at {_box(mix.box)}")
    partner = f"sample {short_id(mix.partner)} ({describe(mix.partner_params)})"
    return f"{kind}: {mix.weight:.2f} this + {1 - mix.weight:.2f} {partner}{place}"


def _any(operation: object) -> list[str]:
    """An operation that has no words of its own here: its name and its fields.

    One that says it was not applied, or has nothing but fields that are off, left the image alone.
    """
    if not dataclasses.is_dataclass(operation) or isinstance(operation, type):
        return [_value(operation)]
    fields = {field.name: getattr(operation, field.name) for field in dataclasses.fields(operation)}
    is_applied = fields.pop("applied", None)
    if is_applied is False or (is_applied is None and fields and all(_is_off(value) for value in fields.values())):
        return []
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", type(operation).__name__.removesuffix("Params")).lower()
    told = [_field(field, value) for field, value in fields.items() if not _is_off(value)]
    return [" ".join([name, *told])]


def _is_off(value: object) -> bool:
    return value is None or value is False or value == ()


def _field(name: str, value: object) -> str:
    words = name.replace("_", " ")
    return words if value is True else f"{words} {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, BoxParams | CropParams):
        return _box(value)
    if isinstance(value, tuple | list):
        return ", ".join(_value(each) for each in value)
    if dataclasses.is_dataclass(value):
        return f"({', '.join(_words(value)) or 'nothing'})"
    return str(value)
