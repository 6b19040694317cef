"""View params in short words, for people; their JSON is what holds every digit."""

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
ID_DIGITS = 8


def describe(params: ViewParams) -> str:
    """`crop 0.12,0.30 0.55×0.41 · flipped · hue +0.03`: what was done to the image, in its order; what left it alone is
    not told. Boxes are left,top width×height in fractions, factors follow a ×, hue is in turns.
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
            return [_step(step) for step in operation.steps]
        case MixParams():
            return [_mix(operation)]


def _box(box: CropParams | PaddedCropParams | BoxParams) -> str:
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
    return " ".join([step.name.replace("_", " "), *(f"{value:.3g}" for value in step.values), *option])


def _mix(mix: MixParams) -> str:
    kind, place = ("mixup", "") if mix.box is None else ("cutmix", f" at {_box(mix.box)}")
    partner = f"sample {short_id(mix.partner)} ({describe(mix.partner_params)})"
    return f"{kind}: {mix.weight:.2f} this + {1 - mix.weight:.2f} {partner}{place}"
