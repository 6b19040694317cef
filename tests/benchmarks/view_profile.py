"""What the parts of a view cost, each alone on the same images: where the times of the table of presets go."""

from collections.abc import Callable, Mapping, Sequence

import cv2

from kd_ray.config.operations import RandAugment, RandomErasing, TrivialAugmentWide
from kd_ray.config.views import Interpolation, Policy, RendererVersion, SizePx
from kd_ray.corpus.images.decode import decode
from kd_ray.views import BoxParams, JitterParams, Step, StepsParams, View, draw, prove, render
from kd_ray.views.color import Pixels, jitter
from kd_ray.views.mix import mix_pixels
from kd_ray.views.params import StepName
from kd_ray.views.steps import apply_step
from tests.benchmarks.timing import Work, for_each

HALF = BoxParams(left=0.25, top=0.25, width=0.5, height=0.5)
AUGMENTS = {TrivialAugmentWide: "paper_resnet", RandAugment: "imagenet_strong", RandomErasing: "imagenet_strong"}


def parts(jpegs: Sequence[bytes], *, size_px: SizePx) -> Mapping[str, Work]:
    """The parts by name, each over all images: on their views under the preset `weak` where it acts on a view."""
    images = [decode(data) for data in jpegs]
    weak, lightly = (Policy.model_validate({"preset": name}) for name in ("weak", "lightly"))
    crops = [_draw(weak, image_HW3, number)[:1] for number, image_HW3 in enumerate(images)]
    views = [View(params=crop, image_HW3=image_HW3) for crop, image_HW3 in zip(crops, images, strict=True)]
    rendered = [view.render(size_px, "bilinear") for view in views]

    def resize(interpolation: Interpolation, version: RendererVersion, to_px: SizePx = size_px) -> Work:
        def work() -> None:
            for image_HW3, crop in zip(images, crops, strict=True):
                render(image_HW3, crop, size_px=to_px, interpolation=interpolation, renderer_version=version)

        return work

    def on_views(change: Callable[[Pixels], object]) -> Work:
        return for_each(rendered, change)

    def drawing(policy: Policy) -> Work:
        return for_each(range(len(images)), lambda number: _draw(policy, images[number], number))

    return {
        "decode": for_each(jpegs, decode),
        "draw, weak": drawing(weak),
        "draw, lightly": drawing(lightly),
        "crop and resize, bilinear": resize("bilinear", 2),
        "crop and resize, bilinear, renderer 1": resize("bilinear", 1),
        "crop and resize, bicubic": resize("bicubic", 2),
        "crop and resize, bicubic, renderer 1": resize("bicubic", 1),
        "crop and resize to 96x96, bicubic": resize("bicubic", 2, (96, 96)),
        "flip": on_views(lambda view_HW3: cv2.flip(view_HW3, 1)),
        **{name: on_views(change) for name, change in _jitters().items()},
        "grayscale": on_views(_step("gray")),
        "blur, sigma 1": on_views(_step("gaussian_blur", 1.0 / min(size_px))),
        "solarize": on_views(_step("solarize", 128.0)),
        **{kind.__name__: _augment(kind, rendered) for kind in AUGMENTS},
        "Mixup": on_views(lambda view_HW3: mix_pixels(view_HW3, rendered[0], weight=0.25, box=None)),
        "CutMix": on_views(lambda view_HW3: mix_pixels(view_HW3, rendered[0], weight=0.75, box=HALF)),
        "digest": for_each(views, lambda view: prove(view, policy=weak)),
    }


def _draw(policy: Policy, image_HW3: Pixels, number: int) -> tuple[object, ...]:
    height, width = image_HW3.shape[:2]
    return draw(policy, seed=0, sample_id=number, view_index=0, image_size_px=(height, width))


def _jitters() -> Mapping[str, Callable[[Pixels], Pixels]]:
    """Each of the four alone, by one renderer or the other, and all of them."""
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    strong = {"brightness": 1.2, "contrast": 0.8, "saturation": 1.2, "hue": 0.05}
    changes = {name: {**neutral, name: value} for name, value in strong.items()} | {"all four": strong}

    def change(values: Mapping[str, float], version: RendererVersion) -> Callable[[Pixels], Pixels]:
        params = JitterParams(applied=True, **values, order=(0, 1, 2, 3))
        return lambda view_HW3: jitter(view_HW3, params, renderer_version=version)

    return {
        **{f"jitter, {name}": change(values, 2) for name, values in changes.items()},
        "jitter, all four, renderer 1": change(strong, 1),
    }


def _step(name: StepName, *values: float) -> Callable[[Pixels], Pixels]:
    return lambda view_HW3: apply_step(view_HW3, Step(name=name, values=values, option=None))


def _augment(kind: type, rendered: Sequence[Pixels]) -> Work:
    """One operation of a preset as it is drawn: many draws do little or nothing."""
    policy = Policy.model_validate({"preset": AUGMENTS[kind]})
    place = next(place for place, operation in enumerate(policy.operations) if isinstance(operation, kind))
    drawn = [_draw(policy, view_HW3, number)[place] for number, view_HW3 in enumerate(rendered)]

    def work() -> None:
        for view_HW3, params in zip(rendered, drawn, strict=True):
            assert isinstance(params, StepsParams)
            changed_HW3 = view_HW3
            for step in params.steps:
                changed_HW3 = apply_step(changed_HW3, step)

    return work
