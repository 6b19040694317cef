"""One step of every name, noise to apply them to, and a digest of it all, without torch: for fresh processes."""

import hashlib

import numpy as np

from kd_ray.config.views import RendererVersion
from kd_ray.views import Step
from kd_ray.views.color import Pixels
from kd_ray.views.params import StepName
from kd_ray.views.steps import apply_step

SIZES_PX = ((1, 1), (1, 7), (2, 2), (3, 3), (5, 1), (13, 29), (40, 3), (33, 129), (64, 64))
VERSIONS: tuple[RendererVersion, ...] = (1, 2)
FILL = (124.0, 116.0, 104.0)


def step(name: StepName, *values: float, option: str | None = None) -> Step:
    return Step(name=name, values=values, option=option)


STEPS = (
    step("flip_vertical"),
    step("add", -20.7),
    step("add", 31.2),
    step("multiply", 0.63),
    step("hsv_saturation", 0.61),
    step("hsv_saturation", 1.47),
    step("hue", -0.083),
    step("gray"),
    step("gaussian_blur", 0.02),
    step("gaussian_blur", 0.1),
    step("brightness", 1.3),
    step("contrast", 0.4),
    step("saturation", 1.7),
    step("sharpness", 1.9),
    step("sharpness", 0.1),
    step("solarize", 100.0),
    step("solarize_add", 77.0),
    step("posterize", 3.0),
    step("equalize"),
    step("autocontrast"),
    step("invert"),
    *(step("affine", 20.0, 0.1, -0.2, 1.2, 10.0, 5.0, *FILL, option=each) for each in ("nearest", "bilinear")),
    step("rotate", -33.0, *FILL, option="bicubic"),
    step("shear_x", 0.3, *FILL, option="bilinear"),
    step("shear_y", -0.3, *FILL, option="bicubic"),
    step("translate_x", 0.23, *FILL, option="nearest"),
    step("translate_y", -0.23, *FILL, option="bilinear"),
    step("perspective", 0.1, 0.05, 0.9, 0.0, 1.0, 0.9, 0.0, 0.95, *FILL, option="bilinear"),
    *(step("erase", 0.2, 0.3, 0.5, 0.4, 77.0, option=each) for each in ("zero", "mean", "noise")),
)


def view(size_px: tuple[int, int], seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*size_px, 3), dtype=np.uint8)


def digest_of_all() -> str:
    """Of the pixels of all steps on views of all sizes, by all versions of the renderer."""
    digest = hashlib.sha256()
    for version in VERSIONS:
        for each in STEPS:
            for size_px in SIZES_PX:
                digest.update(apply_step(view(size_px), each, renderer_version=version).tobytes())
    return digest.hexdigest()
