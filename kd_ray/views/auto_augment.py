"""RandAugment (Cubuk et al. 2019) and TrivialAugment Wide (Müller and Hutter 2021), as timm and torchvision draw them.

Names, magnitudes and signs are those of timm/data/auto_augment.py and torchvision/transforms/v2/_auto_augment.py; their
order of drawing is not, for it belongs to their generators.
"""

from dataclasses import dataclass
from typing import Literal

from kd_ray.config.colors import Color
from kd_ray.config.operations import (
    MAX_TIMM_MAGNITUDE,
    NUM_BINS,
    Interpolation,
    RandAugment,
    TrivialAugmentWide,
)
from kd_ray.views.bits import Bits, standard_normal
from kd_ray.views.params import Step, StepName

MAX_LEVEL = 255.0
TIMM_NAMES: tuple[StepName, ...] = (  # _RAND_TRANSFORMS
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "saturation",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
TORCHVISION_NAMES: tuple[StepName | Literal["identity"], ...] = (  # _AUGMENTATION_SPACE
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
TRIVIAL_MAX_SHIFT_PX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Warping:
    """How a warp samples the view, and what comes from outside it."""

    interpolation: Interpolation
    fill: Color


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """The largest magnitudes of torchvision's operations."""

    shear: float
    degrees: float
    factor: float
    lost_bits: int


RAND_REACH = _Reach(shear=0.3, degrees=30.0, factor=0.9, lost_bits=4)
TRIVIAL_REACH = _Reach(shear=0.99, degrees=135.0, factor=0.99, lost_bits=6)
RAND_MAX_SHIFT = 150 / 331  # of a side


def step(name: StepName, *values: float, option: str | None = None) -> Step:
    return Step(name=name, values=values, option=option)


def warp(name: StepName, *values: float, warping: Warping) -> Step:
    """A step that moves points: its values, then the fill."""
    return step(name, *values, *map(float, warping.fill), option=warping.interpolation)


def rand_augment(operation: RandAugment, bits: Bits) -> tuple[Step, ...]:
    """`num_ops` operations drawn with replacement, each applied with `probability`."""
    steps: list[Step] = []
    for _ in range(operation.num_ops):
        if not bits.chance(operation.probability):
            continue
        interpolation = operation.interpolations[bits.integer_below(len(operation.interpolations))]
        warping = Warping(interpolation=interpolation, fill=operation.fill)
        if operation.source == "timm":
            steps.append(_timm_step(operation, bits, warping))
        else:
            chosen = int(operation.magnitude)
            shift = RAND_MAX_SHIFT * chosen / (NUM_BINS - 1)
            steps += _torchvision_step(bits, chosen, reach=RAND_REACH, shift=shift, warping=warping)
    return tuple(steps)


def trivial_augment(operation: TrivialAugmentWide, bits: Bits) -> tuple[Step, ...]:
    """One operation at one of 31 magnitudes; translations are whole pixels of the reference size, as theirs."""
    warping = Warping(interpolation=operation.interpolation, fill=operation.fill)
    chosen = bits.integer_below(NUM_BINS)
    shift = TRIVIAL_MAX_SHIFT_PX * chosen // (NUM_BINS - 1) / operation.reference_px
    return _torchvision_step(bits, chosen, reach=TRIVIAL_REACH, shift=shift, warping=warping)


def _signed(bits: Bits, value: float) -> float:
    return -value if bits.chance(0.5) else value


def _torchvision_step(bits: Bits, chosen: int, *, reach: _Reach, shift: float, warping: Warping) -> tuple[Step, ...]:
    """One of torchvision's operations at magnitude `chosen` of 0 … 30; none where it is the identity."""
    name = TORCHVISION_NAMES[bits.integer_below(len(TORCHVISION_NAMES))]
    last = NUM_BINS - 1
    match name:
        case "identity":
            return ()
        case "autocontrast" | "equalize":
            return (step(name),)
        case "posterize":
            return (step(name, float(round(8 - chosen * reach.lost_bits / last))),)
        case "solarize":
            return (step(name, MAX_LEVEL * (last - chosen) / last),)
        case "shear_x" | "shear_y":
            return (warp(name, _signed(bits, reach.shear * chosen / last), warping=warping),)
        case "translate_x" | "translate_y":
            return (warp(name, _signed(bits, shift), warping=warping),)
        case "rotate":
            return (warp(name, _signed(bits, reach.degrees * chosen / last), warping=warping),)
        case _:
            return (step(name, 1.0 + _signed(bits, reach.factor * chosen / last)),)


def _timm_step(operation: RandAugment, bits: Bits, warping: Warping) -> Step:
    """One of timm's operations at a magnitude around the policy's own."""
    name = TIMM_NAMES[bits.integer_below(len(TIMM_NAMES))]
    magnitude = operation.magnitude
    if operation.magnitude_std:
        magnitude = min(max(magnitude + operation.magnitude_std * standard_normal(bits), 0.0), MAX_TIMM_MAGNITUDE)
    share = magnitude / MAX_TIMM_MAGNITUDE
    match name:
        case "autocontrast" | "equalize" | "invert":
            return step(name)
        case "posterize":
            kept = int(share * 4)
            return step(name, float(4 - kept if operation.increasing else kept))
        case "solarize":
            level = int(share * 256)
            return step(name, float(256 - level if operation.increasing else level))
        case "solarize_add":
            return step(name, float(int(share * 110)))
        case "rotate":
            return warp(name, _signed(bits, 30.0 * share), warping=warping)
        case "shear_x" | "shear_y":
            return warp(name, _signed(bits, 0.3 * share), warping=warping)
        case "translate_x" | "translate_y":
            return warp(name, _signed(bits, 0.45 * share), warping=warping)
        case _:
            factor = max(0.1, 1.0 + _signed(bits, 0.9 * share)) if operation.increasing else 0.1 + 1.8 * share
            return step(name, factor)
