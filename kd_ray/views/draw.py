"""From a view policy to view params: a function of policy, seed, sample and view number, the same on every machine.

There is no state and no order: view 7 of a sample is what it is whether or not views 0 to 6 were drawn, and by whom.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from kd_ray.config.crops import RandomCrop, RandomScaleCrop, ResizePad
from kd_ray.config.operations import RandomInterpolation
from kd_ray.config.views import CenterCrop, ColorJitter, HorizontalFlip, Mix, Operation, Policy, RandomResizedCrop
from kd_ray.storage.base import canonical_json
from kd_ray.views.bits import Bits, Encoded, log_uniform
from kd_ray.views.draw_padding_crops import Mask, crop_identity, draw_padding_crop
from kd_ray.views.draw_steps import draw_steps, step_identity
from kd_ray.views.mix import draw_mix
from kd_ray.views.params import (
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    OperationParams,
    ResamplingParams,
    ViewParams,
)

DRAW_DOMAIN = "kd_ray view 1"  # the number changes if the same key is ever to give other params
NUM_TRIES = 10
NUM_JITTERS = 4


def policy_identity(policy: Policy) -> dict[str, Any]:
    """What of a policy decides params and pixels, as JSON: the operations in order.

    Not in it: `name`, which is a label, and `digest_size_px`, which decides what is checked and not what is seen
    (a view set's identity has it on its own). Fields are named one by one, so that a field added to the configuration
    later does not change the params of policies that never set it. A policy with kinds has none: each of its kinds
    has (`Policy.of_kind`).
    """
    assert not policy.kinds, policy.name
    identity: dict[str, Any] = {"operations": [_operation_identity(operation) for operation in policy.operations]}
    if policy.mix is not None:
        identity["mix"] = _mix_identity(policy.mix)
    return identity


def draw_mixed(
    policy: Policy,
    *,
    seed: int,
    view_index: int,
    place: int,
    members: Sequence[int],
    image_size_px: Callable[[int], tuple[int, int]],
    mask: Callable[[int], Mask | None] | None = None,
) -> ViewParams:
    """The params of one view of the sample at `place` among the ordered `members` (sample ids) of its row group.

    `image_size_px` gives (height, width) of a member's image by its place, `mask` its mask [H, W]. Where the policy
    mixes nothing this is `draw`, and neither place nor members matter.
    """

    def own(at: int) -> ViewParams:
        return draw(
            policy,
            seed=seed,
            sample_id=members[at],
            view_index=view_index,
            image_size_px=image_size_px(at),
            mask_HW=None if mask is None else mask(at),
        )

    params = own(place)
    if policy.mix is None:
        return params
    key = _key(policy, seed=seed, sample_id=members[place], view_index=view_index)
    mix = draw_mix(policy.mix, key, place=place, members=members)
    if mix is None:
        return params
    partner = MixParams(partner=members[mix.partner], partner_params=own(mix.partner), weight=mix.weight, box=mix.box)
    return (*params, partner)


def draw(
    policy: Policy,
    *,
    seed: int,
    sample_id: int,
    view_index: int,
    image_size_px: tuple[int, int],
    mask_HW: Mask | None = None,
) -> ViewParams:
    """The params of one view of one sample, unmixed.

    Of `image_size_px` (height, width; upright) only the aspect ratio matters, and only to crops: the same image at
    twice the size gives the same params. `mask_HW` are the sample's class indices, at any size; a policy that
    `reads_masks` needs them, and no other looks at them.
    """
    assert mask_HW is not None or not policy.reads_masks, "this policy places its crop by the mask"
    bits = Bits(_key(policy, seed=seed, sample_id=sample_id, view_index=view_index), domain=DRAW_DOMAIN)
    return tuple(
        _draw_operation(operation, bits, image_size_px=image_size_px, mask_HW=mask_HW)
        for operation in policy.operations
    )


def _key(policy: Policy, *, seed: int, sample_id: int, view_index: int) -> dict[str, Any]:
    return {"policy": _encoded(_Same(policy)), "seed": seed, "sample_id": sample_id, "view_index": view_index}


class _Same:
    """A policy that equals itself alone: two with 0.0 and -0.0 are equal, but not their keys."""

    __slots__ = ("policy",)

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.policy is other.policy

    def __hash__(self) -> int:
        return id(self.policy)


@functools.lru_cache(maxsize=64)  # a recipe has a handful of policies; a draw takes a fifth longer without
def _encoded(same: _Same) -> Encoded:
    return Encoded(canonical_json(policy_identity(same.policy)))


def _mix_identity(mix: Mix) -> dict[str, Any]:
    return {
        "mixup_alpha": mix.mixup_alpha,
        "cutmix_alpha": mix.cutmix_alpha,
        "switch_probability": mix.switch_probability,
        "probability": mix.probability,
    }


def _operation_identity(operation: Operation) -> dict[str, Any]:
    match operation:
        case RandomResizedCrop():
            return {"kind": operation.kind, "scale": list(operation.scale), "ratio": list(operation.ratio)}
        case CenterCrop():
            return {"kind": operation.kind, "crop_fraction": operation.crop_fraction}
        case RandomCrop() | ResizePad() | RandomScaleCrop():
            return crop_identity(operation)
        case HorizontalFlip():
            return {"kind": operation.kind, "probability": operation.probability}
        case ColorJitter():
            return {
                "kind": operation.kind,
                "brightness": operation.brightness,
                "contrast": operation.contrast,
                "saturation": operation.saturation,
                "hue": operation.hue,
                "probability": operation.probability,
            }
        case RandomInterpolation():
            return {"kind": operation.kind, "choices": list(operation.choices)}
        case _:
            return step_identity(operation)


def _draw_operation(
    operation: Operation, bits: Bits, *, image_size_px: tuple[int, int], mask_HW: Mask | None
) -> OperationParams:
    match operation:
        case RandomResizedCrop():
            return _draw_crop(operation, bits, aspect=image_size_px[1] / image_size_px[0])
        case CenterCrop():
            return CenterCropParams(crop_fraction=operation.crop_fraction)
        case RandomCrop() | ResizePad() | RandomScaleCrop():
            return draw_padding_crop(operation, bits, image_size_px=image_size_px, mask_HW=mask_HW)
        case HorizontalFlip():
            return FlipParams(flipped=bits.chance(operation.probability))
        case ColorJitter():
            return _draw_jitter(operation, bits)
        case RandomInterpolation():
            return ResamplingParams(interpolation=operation.choices[bits.integer_below(len(operation.choices))])
        case _:
            return draw_steps(operation, bits)


def _draw_crop(operation: RandomResizedCrop, bits: Bits, *, aspect: float) -> CropParams:
    """torchvision's RandomResizedCrop.make_params without rounding the box to pixels.

    With area share s and box ratio r in an image of ratio a (all width / height), the box is sqrt(s r / a) of the
    width and sqrt(s a / r) of the height.
    """
    for _ in range(NUM_TRIES):
        area = bits.uniform_in(*operation.scale)
        ratio = log_uniform(bits, *operation.ratio)
        width, height = math.sqrt(area * ratio / aspect), math.sqrt(area * aspect / ratio)
        if width <= 1.0 and height <= 1.0:
            top = bits.uniform_in(0.0, 1.0 - height)
            left = bits.uniform_in(0.0, 1.0 - width)
            return CropParams(left=left, top=top, width=width, height=height)
    low, high = operation.ratio
    width, height = min(1.0, high / aspect), min(1.0, aspect / low)
    return CropParams(left=(1.0 - width) / 2, top=(1.0 - height) / 2, width=width, height=height)


def _draw_jitter(operation: ColorJitter, bits: Bits) -> JitterParams:
    if not bits.chance(operation.probability):
        order = tuple(range(NUM_JITTERS))
        return JitterParams(applied=False, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, order=order)
    order = bits.permutation(NUM_JITTERS)
    return JitterParams(
        applied=True,
        brightness=_draw_factor(bits, operation.brightness),
        contrast=_draw_factor(bits, operation.contrast),
        saturation=_draw_factor(bits, operation.saturation),
        hue=bits.uniform_in(-operation.hue, operation.hue),
        order=order,
    )


def _draw_factor(bits: Bits, strength: float) -> float:
    return bits.uniform_in(max(0.0, 1.0 - strength), 1.0 + strength)
