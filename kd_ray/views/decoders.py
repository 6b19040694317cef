"""How far another decoder of the same JPEG may move the thumbnail of a view, whatever its tone steps do to a level.

Solarize, posterize and equalize turn one level of a pixel into tens. There the view is rendered again from its own crop
at the digest size, changed as decoders change it and more: each level of the thumbnail may differ by what that does.
H, W: height and width in pixels; 3: red, green, blue.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.views import Interpolation
from kd_ray.views.color import Pixels
from kd_ray.views.kept import WHOLE
from kd_ray.views.params import JitterParams, MixParams, ResamplingParams, StepName, StepsParams, ViewParams, mix_of
from kd_ray.views.view import View

# These make a level jump by tens, or stretch what is left of a dark view; the others enlarge by their factor. Through
# crops and all else, jitters of usual strength included, decoders stay within a fixed limit.
JUMPING = frozenset[StepName]({"solarize", "solarize_add", "posterize", "equalize"})
ENLARGING = frozenset[StepName](
    {"autocontrast", "brightness", "contrast", "saturation", "sharpness", "multiply", "hsv_saturation"}
)
STRONG_JITTER = 1.5
OFFSETS = (-3, -2, -1, 1, 2, 3)
NOISES = (2, 4)  # the largest change of a level: a small crop is enlarged, and a decoder's chroma with it
NOISE_SEEDS = (0, 1)
MERGED = (2, 4)  # levels that become one: equalize counts those of the brightest level
SPREAD_FACTOR = 1.5  # decoders differ in more ways than are tried here

Levels = NDArray[np.int16]
Small = Callable[[Pixels], Pixels]
"""Makes the thumbnail of a view."""


def has_jumps(params: ViewParams) -> bool:
    """Whether a step of the view, or of its partner, turns one level into tens."""
    return bool(JUMPING & _step_names(params))


def enlarges(params: ViewParams) -> bool:
    """Whether an operation of the view, or of its partner, makes differences of level larger."""
    mix = mix_of(params)
    jitters = [each for each in params if isinstance(each, JitterParams)]
    is_strong = any(max(each.brightness, each.contrast, each.saturation) > STRONG_JITTER for each in jitters)
    in_partner = mix is not None and enlarges(mix.partner_params)
    return is_strong or in_partner or bool((JUMPING | ENLARGING) & _step_names(params))


def _step_names(params: ViewParams) -> set[StepName]:
    mix = mix_of(params)
    names = {step.name for each in params if isinstance(each, StepsParams) for step in each.steps}
    return names if mix is None else names | _step_names(mix.partner_params)


def decoder_spread(view: View, size_px: tuple[int, int], interpolation: Interpolation, *, small: Small) -> Levels:
    """For each level of the thumbnail (`small`) of the view at `size_px`, how far another decoder may move it.

    15 renderings at the digest size from one crop, as dear as eight digests; for where thumbnails alone do not tell.
    """
    at_size = _at_size(view, size_px, interpolation)
    views = (at_size, *_decoded_otherwise(at_size))
    levels, *changed = [small(each.render(size_px, interpolation)).astype(np.int16) for each in views]
    spread: Levels = np.ceil(SPREAD_FACTOR * np.abs(np.stack(changed) - levels).max(axis=0)).astype(np.int16)
    return spread


def _at_size(view: View, size_px: tuple[int, int], interpolation: Interpolation) -> View:
    """The same view of images that are their crops at `size_px` already: all other operations are still to be done."""

    def cropped(image_HW3: Pixels, params: ViewParams) -> Pixels:
        kernel = [each for each in params if isinstance(each, ResamplingParams)]
        crop = replace(view, params=(params[0], *kernel), image_HW3=image_HW3, partner_HW3=None)
        return crop.render(size_px, interpolation)

    mix = mix_of(view.params)
    params = (WHOLE, *view.params[1:])
    if mix is None:
        return replace(view, params=params, image_HW3=cropped(view.image_HW3, view.params))
    assert view.partner_HW3 is not None, "a mixed view needs the image of its partner"
    whole_mix: MixParams = replace(mix, partner_params=(WHOLE, *mix.partner_params[1:]))
    return replace(
        view,
        params=(*params[:-1], whole_mix),
        image_HW3=cropped(view.image_HW3, view.params[:-1]),
        partner_HW3=cropped(view.partner_HW3, mix.partner_params),
    )


def _decoded_otherwise(view: View) -> Iterator[View]:
    """The view with every image changed alike; they differ by decoder, not from one another."""
    images = [view.image_HW3] if view.partner_HW3 is None else [view.image_HW3, view.partner_HW3]
    for changed in zip(*map(_changed, images), strict=True):
        yield replace(view, image_HW3=changed[0], partner_HW3=changed[1] if len(changed) == 2 else None)


def _changed(image_HW3: Pixels) -> Iterator[Pixels]:
    """Brighter and darker, with noise, and with neighbouring levels made one, which a histogram feels."""
    levels_HW3 = image_HW3.astype(np.int16)
    for offset in OFFSETS:
        yield _pixels(levels_HW3 + offset)
    for most in NOISES:
        for seed in NOISE_SEEDS:
            yield _pixels(levels_HW3 + _noise(image_HW3.shape, most=most, seed=seed))
    for count in MERGED:
        yield _pixels(levels_HW3 | (count - 1))
        yield _pixels(levels_HW3 & -count)


def _noise(shape: tuple[int, ...], *, most: int, seed: int) -> NDArray[np.int16]:
    """Whole numbers from -most to most: from raw words, which NumPy promises to keep."""
    words = np.random.Philox(key=seed).random_raw(int(np.prod(shape))).reshape(shape)
    return (words % np.uint64(2 * most + 1)).astype(np.int16) - np.int16(most)


def _pixels(levels_HW3: NDArray[np.int16]) -> Pixels:
    return np.clip(levels_HW3, 0, 255).astype(np.uint8)
