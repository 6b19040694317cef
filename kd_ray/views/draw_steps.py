"""Drawing the steps of all operations but crop, flip and jitter: what is done to the view, free of any resolution."""

import math
from typing import Any

from kd_ray.config.operations import (
    Autocontrast,
    Equalize,
    GaussianBlur,
    Invert,
    PhotometricDistortion,
    Posterize,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomGrayscale,
    RandomPerspective,
    Sharpness,
    Solarize,
    StepOperation,
    TrivialAugmentWide,
    VerticalFlip,
)
from kd_ray.views.auto_augment import MAX_LEVEL, Warping, rand_augment, step, trivial_augment, warp
from kd_ray.views.bits import Bits, log_uniform
from kd_ray.views.params import Step, StepName, StepsParams

NUM_TRIES = 10
HUES = 180.0  # in a turn, as OpenCV counts them in 8 bits
SEED_BITS = 53  # what a float holds exactly


def step_identity(operation: StepOperation) -> dict[str, Any]:
    """What of the operation decides params and pixels, as JSON: fields named one by one (see `policy_identity`)."""
    return {"kind": operation.kind, **_identity_fields(operation)}


def draw_steps(operation: StepOperation, bits: Bits) -> StepsParams:
    """One draw; no steps where the operation is not applied."""
    return StepsParams(steps=_draw(operation, bits))


def _identity_fields(operation: StepOperation) -> dict[str, Any]:
    match operation:
        case TrivialAugmentWide():
            return {
                "interpolation": operation.interpolation,
                "fill": list(operation.fill),
                "reference_px": operation.reference_px,
            }
        case RandAugment():
            return {
                "source": operation.source,
                "num_ops": operation.num_ops,
                "magnitude": operation.magnitude,
                "magnitude_std": operation.magnitude_std,
                "increasing": operation.increasing,
                "probability": operation.probability,
                "interpolations": list(operation.interpolations),
                "fill": list(operation.fill),
            }
        case _:
            return {"probability": operation.probability, **_own_fields(operation)}


def _own_fields(operation: StepOperation) -> dict[str, Any]:
    match operation:
        case PhotometricDistortion():
            return {
                "brightness_delta": operation.brightness_delta,
                "contrast_range": list(operation.contrast_range),
                "saturation_range": list(operation.saturation_range),
                "hue_delta": operation.hue_delta,
            }
        case GaussianBlur():
            return {"sigma": list(operation.sigma), "reference_px": operation.reference_px}
        case Solarize():
            return {"threshold": operation.threshold}
        case Posterize():
            return {"bits": operation.bits}
        case Sharpness():
            return {"factor": operation.factor}
        case RandomAffine():
            return {
                "degrees": list(operation.degrees),
                "translate": list(operation.translate),
                "scale": list(operation.scale),
                "shear": list(operation.shear),
                "interpolation": operation.interpolation,
                "fill": list(operation.fill),
            }
        case RandomPerspective():
            return {
                "distortion_scale": operation.distortion_scale,
                "interpolation": operation.interpolation,
                "fill": list(operation.fill),
            }
        case RandomErasing():
            return {"scale": list(operation.scale), "ratio": list(operation.ratio), "value": operation.value}
        case _:
            return {}


def _draw(operation: StepOperation, bits: Bits) -> tuple[Step, ...]:
    match operation:
        case RandAugment():
            return rand_augment(operation, bits)
        case TrivialAugmentWide():
            return trivial_augment(operation, bits)
        case PhotometricDistortion():
            return _distortion(operation, bits)
        case _:
            return _one(operation, bits) if bits.chance(operation.probability) else ()


def _one(operation: StepOperation, bits: Bits) -> tuple[Step, ...]:
    match operation:
        case VerticalFlip() | RandomGrayscale() | Equalize() | Autocontrast() | Invert():
            return (step(_plain(operation)),)
        case GaussianBlur():
            return (step("gaussian_blur", bits.uniform_in(*operation.sigma) / operation.reference_px),)
        case Solarize():
            return (step("solarize", operation.threshold * MAX_LEVEL),)
        case Posterize():
            return (step("posterize", float(operation.bits)),)
        case Sharpness():
            return (step("sharpness", operation.factor),)
        case RandomAffine():
            return (_affine(operation, bits),)
        case RandomPerspective():
            return (_perspective(operation, bits),)
        case RandomErasing():
            return _erase(operation, bits)
        case RandAugment() | TrivialAugmentWide() | PhotometricDistortion():
            raise AssertionError("these draw several operations")


def _distortion(operation: PhotometricDistortion, bits: Bits) -> tuple[Step, ...]:
    """mmsegmentation's order: brightness, contrast, saturation, hue, with contrast last in half of all draws."""

    def perhaps(name: StepName, low: float, high: float) -> tuple[Step, ...]:
        if not bits.chance(operation.probability):
            return ()
        return (step(name, bits.uniform_in(low, high)),)

    turns = operation.hue_delta / HUES
    brightness = perhaps("add", -operation.brightness_delta, operation.brightness_delta)
    contrast = perhaps("multiply", *operation.contrast_range)
    colors = (*perhaps("hsv_saturation", *operation.saturation_range), *perhaps("hue", -turns, turns))
    return (*brightness, *colors, *contrast) if bits.chance(0.5) else (*brightness, *contrast, *colors)


def _plain(operation: VerticalFlip | RandomGrayscale | Equalize | Autocontrast | Invert) -> StepName:
    match operation:
        case VerticalFlip():
            return "flip_vertical"
        case RandomGrayscale():
            return "gray"
        case _:
            return operation.kind


def _affine(operation: RandomAffine, bits: Bits) -> Step:
    degrees = bits.uniform_in(*operation.degrees)
    shift_x = bits.uniform_in(-operation.translate[0], operation.translate[0])
    shift_y = bits.uniform_in(-operation.translate[1], operation.translate[1])
    scale = bits.uniform_in(*operation.scale)
    shear_x, shear_y = bits.uniform_in(*operation.shear[:2]), bits.uniform_in(*operation.shear[2:])
    values = (degrees, shift_x, shift_y, scale, shear_x, shear_y)
    return warp("affine", *values, warping=Warping(interpolation=operation.interpolation, fill=operation.fill))


def _perspective(operation: RandomPerspective, bits: Bits) -> Step:
    """Where the corners of the view go, clockwise from the upper left: (x, y) as shares of its sides."""
    corners: list[float] = []
    for at_right, at_bottom in ((False, False), (True, False), (True, True), (False, True)):
        x, y = (bits.uniform_in(0.0, operation.distortion_scale / 2) for _ in range(2))
        corners += [1.0 - x if at_right else x, 1.0 - y if at_bottom else y]
    return warp("perspective", *corners, warping=Warping(interpolation=operation.interpolation, fill=operation.fill))


def _erase(operation: RandomErasing, bits: Bits) -> tuple[Step, ...]:
    """torchvision's and timm's box: ten tries at one that is smaller than the view, else none.

    Both count in pixels; here the view is taken as square, and the box follows its sides.
    """
    for _ in range(NUM_TRIES):
        area = bits.uniform_in(*operation.scale)
        ratio = log_uniform(bits, *operation.ratio)
        height, width = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if height < 1.0 and width < 1.0:
            top, left = bits.uniform_in(0.0, 1.0 - height), bits.uniform_in(0.0, 1.0 - width)
            seed = float(bits.word() >> (64 - SEED_BITS))
            return (step("erase", left, top, width, height, seed, option=operation.value),)
    return ()
