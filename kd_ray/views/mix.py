"""Mixing two views into one: which partner, with which weight, and the pixels. H, W: height, width; 3: RGB.

Weights are multiples of 1/256, so that pixels mix in whole numbers and labels mix with the very same weight.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import cv2
import numpy as np

from kd_ray.config.views import Mix
from kd_ray.views.bits import Bits
from kd_ray.views.color import Pixels, as_pixels
from kd_ray.views.params import BoxParams

MIX_DOMAIN = "kd_ray mix 1"  # the number changes if the same key is ever to give another mix
WEIGHT_STEPS = 256
MAX_TRIES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnMix:
    """One draw: the partner's place among the members, this view's share, and the partner's box in CutMix."""

    partner: int
    weight: float
    box: BoxParams | None


def members_key(members: Sequence[int]) -> str:
    """128 bits (hex) over the ordered sample ids of a row group: packed otherwise, its samples mix otherwise."""
    packed = np.array(members, dtype="<u8").tobytes()
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def draw_mix(mix: Mix, key: dict[str, Any], *, place: int, members: Sequence[int]) -> DrawnMix | None:
    """The mix of one view of the sample at `place` of its row group; None where it is not mixed.

    `key` is what decides the view's own params; the members of the row group are added to it. A sample that is alone in
    its row group has no partner.
    """
    bits = Bits({**key, "members": members_key(members)}, domain=MIX_DOMAIN)
    is_mixed, is_cut = bits.chance(mix.probability), bits.chance(mix.switch_probability)
    if not mix.mixup_alpha:
        is_cut = True
    elif not mix.cutmix_alpha:
        is_cut = False
    if not is_mixed or len(members) < 2:
        return None
    partner = (place + 1 + bits.integer_below(len(members) - 1)) % len(members)
    alpha = mix.cutmix_alpha if is_cut else mix.mixup_alpha
    weight = _beta_weight(bits, alpha)
    if not is_cut:
        return DrawnMix(partner=partner, weight=weight, box=None)
    box = _cut_box(bits, weight)
    return DrawnMix(partner=partner, weight=1.0 - box.width * box.height, box=box)


def _beta_weight(bits: Bits, alpha: float) -> float:
    """A draw from Beta(alpha, alpha), rounded to a multiple of 1/256.

    Jöhnk's method (1964), which is exact for alpha of at most 1; powers in decimal, which is the same everywhere.
    """
    if alpha == 1.0:
        return round(bits.uniform() * WEIGHT_STEPS) / WEIGHT_STEPS
    for _ in range(MAX_TRIES):
        own, other = _power(bits.uniform(), 1.0 / alpha), _power(bits.uniform(), 1.0 / alpha)
        if 0 < own + other <= 1:
            return round(own / (own + other) * WEIGHT_STEPS) / WEIGHT_STEPS
    raise AssertionError("Jöhnk's method accepts at least one draw in four")


def _power(base: float, exponent: float) -> Decimal:
    context = Context(prec=20, Emin=-999_999, Emax=999_999)
    if base == 0.0:
        return Decimal(0)
    return context.exp(context.multiply(context.ln(Decimal(base)), Decimal(exponent)))


def _cut_box(bits: Bits, weight: float) -> BoxParams:
    """CutMix's box (Yun et al. 2019): sqrt(1 - weight) of both sides around a uniform centre, cut at the edges."""
    side = math.sqrt(1.0 - weight)
    center_x, center_y = bits.uniform(), bits.uniform()
    left, top = max(center_x - side / 2, 0.0), max(center_y - side / 2, 0.0)
    right, bottom = min(center_x + side / 2, 1.0), min(center_y + side / 2, 1.0)
    return BoxParams(left=left, top=top, width=right - left, height=bottom - top)


def mix_pixels(view_HW3: Pixels, partner_HW3: Pixels, *, weight: float, box: BoxParams | None) -> Pixels:
    """The mixed view: `weight` of the one and the rest of the other, or the partner's `box` pasted over it."""
    if box is None:
        return _blend(view_HW3, partner_HW3, round(weight * WEIGHT_STEPS))
    height, width = view_HW3.shape[:2]
    left, right = round(box.left * width), round((box.left + box.width) * width)
    top, bottom = round(box.top * height), round((box.top + box.height) * height)
    mixed_HW3 = view_HW3.copy()
    mixed_HW3[top:bottom, left:right] = partner_HW3[top:bottom, left:right]
    return mixed_HW3


def _blend(view_HW3: Pixels, partner_HW3: Pixels, weight: int) -> Pixels:
    """(v * weight + p * (256 - weight) + 128) >> 8.

    In float32, which holds multiples of 1/1024 below 256 exactly; OpenCV rounds, and 1/1024 more takes halves upwards.
    """
    own, other = weight / WEIGHT_STEPS, (WEIGHT_STEPS - weight) / WEIGHT_STEPS
    return as_pixels(cv2.addWeighted(view_HW3, own, partner_HW3, other, 1.0 / 1024.0))
