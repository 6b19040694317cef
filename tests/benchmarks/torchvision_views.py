"""The operations of a policy as torchvision's v2 has them, for Pillow images and for uint8 tensors alike."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2

from kd_ray.config.crops import RandomScaleCrop
from kd_ray.config.operations import (
    MAX_TIMM_MAGNITUDE,
    NUM_BINS,
    GaussianBlur,
    Interpolation,
    PhotometricDistortion,
    RandAugment,
    RandomErasing,
    RandomGrayscale,
    RandomInterpolation,
    Solarize,
    TrivialAugmentWide,
)
from kd_ray.config.views import CenterCrop, ColorJitter, HorizontalFlip, Mix, Operation, RandomResizedCrop, SizePx

NUM_CLASSES = 1000
MODES = {
    "nearest": v2.InterpolationMode.NEAREST,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
}


def transform(operations: Sequence[Operation], *, size_px: SizePx, on_tensors: bool) -> v2.Transform:
    """What draws and renders one view of a decoded image; by the bilinear kernel unless the policy names others.

    Tensors are warped bilinearly where the policy says bicubic: torchvision knows no other for them.
    """
    chosen = next((each.choices for each in operations if isinstance(each, RandomInterpolation)), ("bilinear",))
    crops = [_crop(operations[0], size_px=size_px, interpolation=each) for each in chosen]
    rest = [
        _operation(each, on_tensors=on_tensors) for each in operations[1:] if not isinstance(each, RandomInterpolation)
    ]
    return v2.Compose([crops[0] if len(crops) == 1 else v2.RandomChoice(crops), *rest])


def mixing(mix: Mix) -> v2.Transform:
    """What mixes a batch of float images and labels, as people do it: one weight and one way for all of it."""
    ways = []
    if mix.cutmix_alpha:
        ways.append((mix.switch_probability, v2.CutMix(alpha=mix.cutmix_alpha, num_classes=NUM_CLASSES)))
    if mix.mixup_alpha:
        ways.append((1.0 - mix.switch_probability, v2.MixUp(alpha=mix.mixup_alpha, num_classes=NUM_CLASSES)))
    if len(ways) == 1:
        return ways[0][1]
    return v2.RandomChoice([way for _, way in ways], p=[share for share, _ in ways])


def as_float(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """A batch as v2's MixUp needs it, which works in place on floats."""
    return torch.stack(list(images)).to(torch.float32).div_(255.0)


def _crop(operation: Operation, *, size_px: SizePx, interpolation: Interpolation) -> v2.Transform:
    mode = MODES[interpolation]
    match operation:
        case RandomResizedCrop():
            return v2.RandomResizedCrop(size_px, operation.scale, operation.ratio, interpolation=mode, antialias=True)
        case CenterCrop():
            shorter_px = round(min(size_px) / operation.crop_fraction)
            return v2.Compose([v2.Resize(shorter_px, interpolation=mode, antialias=True), v2.CenterCrop(size_px)])
        case RandomScaleCrop():
            shortest_px, longest_px = (round(ratio * min(size_px)) for ratio in operation.ratio_range)
            resize = v2.RandomResize(shortest_px, longest_px + 1, interpolation=mode, antialias=True)
            return v2.Compose([resize, v2.RandomCrop(size_px, pad_if_needed=True, fill=list(operation.fill))])
        case _:
            raise ValueError(f"no crop of torchvision's is written down here for {operation.kind}")


def _operation(operation: Operation, *, on_tensors: bool) -> v2.Transform:
    match operation:
        case HorizontalFlip():
            return v2.RandomHorizontalFlip(operation.probability)
        case ColorJitter():
            strengths = (operation.brightness, operation.contrast, operation.saturation, operation.hue)
            return _applied(v2.ColorJitter(*strengths), operation.probability)
        case RandomGrayscale():
            return v2.RandomGrayscale(operation.probability)
        case GaussianBlur():
            low, high = operation.sigma
            taps = 2 * math.ceil(2.0 * high) + 1  # 9 for sigmas of up to 2, as DINOv2 has it (SimCLR: 23)
            return _applied(v2.GaussianBlur(taps, (max(low, 1e-3), high)), operation.probability)
        case Solarize():
            return v2.RandomSolarize(operation.threshold * 255.0, operation.probability)
        case PhotometricDistortion():
            return _distortion(operation)
        case TrivialAugmentWide():
            return v2.TrivialAugmentWide(interpolation=MODES[operation.interpolation], fill=list(operation.fill))
        case RandAugment():
            return _rand_augment(operation, on_tensors=on_tensors)
        case RandomErasing():
            erasing = v2.RandomErasing(operation.probability, operation.scale, operation.ratio, value="random")
            return v2.Compose([v2.ToImage(), erasing])  # it takes no Pillow image
        case _:
            raise ValueError(f"no operation of torchvision's is written down here for {operation.kind}")


class _Distortion(v2.RandomPhotometricDistort):
    """Without the exchange of channels, which mmsegmentation does not have."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {**super().make_params(flat_inputs), "channel_permutation": None}


def _distortion(operation: PhotometricDistortion) -> v2.Transform:
    brighter, turns = operation.brightness_delta / 255.0, operation.hue_delta / 180.0
    return _Distortion(
        brightness=(1.0 - brighter, 1.0 + brighter),
        contrast=operation.contrast_range,
        saturation=operation.saturation_range,
        hue=(-turns, turns),
        p=operation.probability,
    )


def _applied(operation: v2.Transform, probability: float) -> v2.Transform:
    return operation if probability == 1.0 else v2.RandomApply([operation], p=probability)


def _rand_augment(operation: RandAugment, *, on_tensors: bool) -> v2.Transform:
    """torchvision's own at the same share of the largest magnitude, each operation with the same probability."""
    largest = MAX_TIMM_MAGNITUDE if operation.source == "timm" else NUM_BINS - 1
    magnitude = round(operation.magnitude / largest * (NUM_BINS - 1))
    mode = MODES["bilinear" if on_tensors else operation.interpolations[0]]
    one = v2.RandAugment(num_ops=1, magnitude=magnitude, interpolation=mode, fill=list(operation.fill))
    return v2.Compose([_applied(one, operation.probability) for _ in range(operation.num_ops)])
