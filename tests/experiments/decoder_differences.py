"""Whether proofs of views tell another decoder from another view, on photographs.

    python -m tests.experiments.decoder_differences --images FOLDER [--files 40] [--every 1] [--views 4]

JPEGs below FOLDER, one in `--every`; of each, `--views` views of every preset, and of strong tone steps one by one.
First the same view of images that other decoders give: colours cut instead of rounded, chroma not smoothed, both, and
noise of one level. None may be refused. Then another view: all should be. Views that have the very same pixels at the
digest's size are left out. Prints the tables of docs/views.md.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.presets import PRESETS
from kd_ray.config.views import Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.errors import ViewMismatch
from kd_ray.views import (
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    Proof,
    Step,
    StepsParams,
    View,
    ViewParams,
    check_view,
    compare,
    draw_mixed,
    mix_of,
    prove,
)
from kd_ray.views.color import Pixels
from kd_ray.views.params import OperationParams, StepName

STEPS: tuple[tuple[StepName, tuple[float, ...]], ...] = (
    ("solarize", (32.0,)),
    ("solarize", (128.0,)),
    ("solarize", (200.0,)),
    ("solarize_add", (110.0,)),
    ("posterize", (1.0,)),
    ("posterize", (2.0,)),
    ("posterize", (4.0,)),
    ("equalize", ()),
    ("autocontrast", ()),
    ("contrast", (1.9,)),
    ("saturation", (1.9,)),
    ("sharpness", (1.9,)),
)
Counts = Counter[tuple[str, str]]
"""By what was done to the view, and what the proof says of it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a line for each decoder and each change."""
    parser = argparse.ArgumentParser(description="Do proofs tell another decoder from another view?")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--views", type=int, default=4)
    options = parser.parse_args(arguments)
    files = sorted(options.images.rglob("*.jp*g"))[:: options.every][: options.files]
    decoders, changes = count(files, num_views=options.views)
    print(f"{len(files)} photographs, {options.views} views of each of {len(list(policies()))} policies")
    _print("another decoder", decoders)
    _print("another view", changes)


def count(files: Sequence[Path], *, num_views: int) -> tuple[Counts, Counts]:
    """Of the same views through other decoders, and of other views; a mixed one is mixed with the file before it."""
    decoders, changes = Counts(), Counts()
    for number, path in enumerate(files):
        images = (decode(path.read_bytes()), decode(files[number - 1].read_bytes()))
        decoded = list(zip(*(_decoded(image_HW3, seed=number) for image_HW3 in images), strict=True))
        for (policy, steps), index in product(policies(), range(num_views)):
            view = _view(policy, steps, images, number, index)
            stored = prove(view, policy=policy)
            for (name, image_HW3), (_, partner_HW3) in decoded:
                _count(decoders, name, _of_images(view, image_HW3, partner_HW3), stored, policy)
            others = {
                "the next view of the sample": _view(policy, steps, images, number, index + 1),
                "another sample": _of_images(view, images[1], images[0]),
                **_changed(view),
            }
            for name, other in others.items():
                _count(changes, name, other, stored, policy)
    return decoders, changes


def _of_images(view: View, image_HW3: Pixels, partner_HW3: Pixels) -> View:
    return replace(view, image_HW3=image_HW3, partner_HW3=None if view.partner_HW3 is None else partner_HW3)


def _count(counts: Counts, name: str, view: View, stored: Proof, policy: Policy) -> None:
    """By the pixels alone: the stored params count as the view's own."""
    try:
        likeness: str = check_view(view, stored, view.params, policy=policy, sample_id=0, view_index=0)
    except ViewMismatch:
        likeness = "different"
    counts[name, likeness] += 1
    counts[name, "refused by thumbnails alone"] += compare(prove(view, policy=policy), stored) == "different"


def policies() -> Iterator[tuple[Policy, StepsParams]]:
    """Presets, kind by kind, and `weak` with a strong step after it, which no few draws of a preset would hit."""
    for name in PRESETS:
        policy = Policy.model_validate(name)
        if policy.reads_masks:
            crop = {"kind": "random_scale_crop", "cat_max_ratio": None}
            others = policy.model_dump()["operations"][1:]
            policy = Policy.model_validate({"preset": name, "operations": [crop, *others]})
        for kind in policy.kind_names:
            yield policy.of_kind(kind), StepsParams(steps=())
    for step_name, values in STEPS:
        yield Policy.model_validate("weak"), StepsParams(steps=(Step(name=step_name, values=values, option=None),))


def _view(policy: Policy, steps: StepsParams, images: tuple[Pixels, Pixels], number: int, index: int) -> View:
    params = draw_mixed(
        policy,
        seed=0,
        view_index=index,
        place=0,
        members=(2 * number, 2 * number + 1),
        image_size_px=lambda place: (images[place].shape[0], images[place].shape[1]),
        mask=lambda place: None,
    )
    partner_HW3 = None if mix_of(params) is None else images[1]
    if steps.steps:
        params = (*params, steps)
    return View(params=params, image_HW3=images[0], partner_HW3=partner_HW3, renderer_version=policy.renderer_version)


def _decoded(image_HW3: Pixels, *, seed: int) -> Iterator[tuple[str, Pixels]]:
    """The image as other decoders give it; chroma that is not smoothed is one of four pixels."""
    ycc_HW3 = np.array(Image.fromarray(image_HW3).convert("YCbCr")).astype(np.float64)
    height, width = image_HW3.shape[:2]
    blocks_HW3 = ycc_HW3.copy()
    blocks_HW3[..., 1:] = ycc_HW3[::2, ::2, 1:].repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    yield "colours cut", _pixels(np.floor(_rgb(ycc_HW3)))
    yield "chroma not smoothed", _pixels(_rgb(blocks_HW3))
    yield "both", _pixels(np.floor(_rgb(blocks_HW3)))
    yield "noise of one level", _pixels(image_HW3 + np.random.default_rng(seed).integers(-1, 2, image_HW3.shape))


def _rgb(ycc_HW3: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R 601, as JPEG has it."""
    luma, blue, red = np.moveaxis(ycc_HW3, -1, 0) - np.array([0.0, 128.0, 128.0])[:, None, None]
    return np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)


def _pixels(levels_HW3: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(levels_HW3), 0, 255).astype(np.uint8)


def _changed(view: View) -> dict[str, View]:
    """Views that a mistake in drawing or rendering, or in the image, would give."""
    found = {"its image with a corner inverted": replace(view, image_HW3=_edited(view.image_HW3))}
    for place, operation in enumerate(view.params):
        for name, others in _instead(operation):
            found[name] = replace(view, params=(*view.params[:place], *others, *view.params[place + 1 :]))
    return found


def _edited(image_HW3: Pixels) -> Pixels:
    """A sixteenth of the image: the upper left."""
    edited_HW3 = image_HW3.copy()
    corner_HW3 = edited_HW3[: image_HW3.shape[0] // 4, : image_HW3.shape[1] // 4]
    np.subtract(255, corner_HW3, out=corner_HW3)
    return edited_HW3


def _instead(operation: OperationParams) -> Iterator[tuple[str, ViewParams]]:
    match operation:
        case CropParams():
            left = operation.left * 0.95 if operation.left else operation.left
            yield "a crop moved by a twentieth of its place", (replace(operation, left=left),)
            yield "a crop narrower by a twentieth", (replace(operation, width=operation.width * 0.95),)
        case FlipParams():
            yield "a flip more or less", (FlipParams(flipped=not operation.flipped),)
        case JitterParams(applied=True):
            yield "no jitter", ()
            yield "brightness a tenth higher", (replace(operation, brightness=operation.brightness * 1.1),)
            yield "contrast a tenth higher", (replace(operation, contrast=operation.contrast * 1.1),)
            yield "hue a twentieth of a turn off", (replace(operation, hue=operation.hue + 0.05),)
        case StepsParams(steps=(first, *others)):
            yield "a step left out", (StepsParams(steps=tuple(others)),)
            if first.values:
                values = (first.values[0] * 0.8, *first.values[1:])
                yield "a step four fifths as strong", (StepsParams(steps=(replace(first, values=values), *others)),)
        case MixParams(box=None):
            yield "a mixup weight off by a tenth", (replace(operation, weight=abs(operation.weight - 0.1)),)
        case _:
            return


def _print(title: str, counts: Counts) -> None:
    columns = ("same", "rounding", "different", "refused by thumbnails alone")
    print(f"\n| {title} | same pixels | rounding | refused | refused by a fixed limit |\n|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"| {name} | {' | '.join(f'{counts[name, each]:,}' for each in columns)} |")


if __name__ == "__main__":
    main()
