"""Makes tests/golden/view_operations.json: draws of every operation of view policies, and pixels of every step.

    python -m tests.golden.make_view_operations

Params hold for ever, and pixels under the lock file: run it only to add an operation or a step, and look at the diff,
in which nothing may change.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from kd_ray.config.views import Policy, RendererVersion
from kd_ray.views import Step, draw_mixed, params_to_json
from kd_ray.views.steps import apply_step
from tests.support.view_steps import STEPS, VERSIONS, view

PATH = Path(__file__).parent / "view_operations.json"
MEMBERS = (3, 5, 8, 13)
NUM_VIEWS = 2
SIZES_PX = ((32, 32), (61, 67))
ALWAYS = {"probability": 1.0}
CROP = {"kind": "random_resized_crop"}
FILL = [1, 2, 3]

# by what they are called in the file
CROPS: dict[str, dict[str, Any]] = {
    "random_resized_crop": CROP,
    "random_resized_crop, of no area that fits": {"kind": "random_resized_crop", "scale": [0.99, 1], "ratio": [3, 4]},
    "center_crop": {"kind": "center_crop", "crop_fraction": 0.875},
    "random_crop": {"kind": "random_crop"},
    "random_crop, own": {"kind": "random_crop", "padding_px": 7, "reference_px": 40, "fill": FILL},
    "resize_pad": {"kind": "resize_pad", "fill": FILL},
    "random_scale_crop": {"kind": "random_scale_crop", "cat_max_ratio": None},
    "random_scale_crop, own": {
        "kind": "random_scale_crop",
        "cat_max_ratio": None,
        "ratio_range": [0.3, 0.6],
        "max_aspect": 1.0,
        "fill": FILL,
    },
}
OPERATIONS: dict[str, dict[str, Any]] = {
    "random_interpolation": {"kind": "random_interpolation"},
    "random_interpolation, of three": {
        "kind": "random_interpolation",
        "choices": ["nearest", "bilinear", "bicubic"],
    },
    "horizontal_flip": {"kind": "horizontal_flip"},
    "vertical_flip": {"kind": "vertical_flip"} | ALWAYS,
    "color_jitter": {"kind": "color_jitter", "brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1},
    "photometric_distortion": {"kind": "photometric_distortion"} | ALWAYS,
    "photometric_distortion, own": {
        "kind": "photometric_distortion",
        "brightness_delta": 8.0,
        "contrast_range": [0.9, 1.2],
        "saturation_range": [0.3, 1.1],
        "hue_delta": 40.0,
    },
    "random_grayscale": {"kind": "random_grayscale"} | ALWAYS,
    "gaussian_blur": {"kind": "gaussian_blur"} | ALWAYS,
    "gaussian_blur, own": {"kind": "gaussian_blur", "sigma": [1.0, 5.0], "reference_px": 96} | ALWAYS,
    "solarize": {"kind": "solarize", "threshold": 0.3} | ALWAYS,
    "posterize": {"kind": "posterize", "bits": 3} | ALWAYS,
    "equalize": {"kind": "equalize"} | ALWAYS,
    "autocontrast": {"kind": "autocontrast"} | ALWAYS,
    "sharpness": {"kind": "sharpness", "factor": 1.5} | ALWAYS,
    "invert": {"kind": "invert"} | ALWAYS,
    **{
        f"random_affine, {kernel}": {
            "kind": "random_affine",
            "degrees": [-30.0, 20.0],
            "translate": [0.2, 0.1],
            "scale": [0.8, 1.3],
            "shear": [-10.0, 8.0, -4.0, 6.0],
            "interpolation": kernel,
            "fill": FILL,
        }
        for kernel in ("nearest", "bilinear", "bicubic")
    },
    "random_perspective": {"kind": "random_perspective"} | ALWAYS,
    "random_perspective, own": {"kind": "random_perspective", "distortion_scale": 0.9, "fill": FILL} | ALWAYS,
    "rand_augment, timm": {"kind": "rand_augment", "num_ops": 12} | ALWAYS,
    "rand_augment, timm increasing": {
        "kind": "rand_augment",
        "num_ops": 12,
        "magnitude": 7.0,
        "magnitude_std": 0.5,
        "increasing": True,
        "interpolations": ["nearest", "bicubic"],
        "fill": FILL,
    },
    "rand_augment, torchvision": {"kind": "rand_augment", "source": "torchvision", "num_ops": 12, "magnitude": 11},
    "trivial_augment_wide": {"kind": "trivial_augment_wide"},
    "trivial_augment_wide, own": {
        "kind": "trivial_augment_wide",
        "interpolation": "bilinear",
        "reference_px": 96,
        "fill": FILL,
    },
    **{
        f"random_erasing, {value}": {"kind": "random_erasing", "value": value} | ALWAYS
        for value in ("zero", "mean", "noise")
    },
    "random_erasing, own": {"kind": "random_erasing", "scale": [0.3, 0.6], "ratio": [0.5, 0.7]} | ALWAYS,
}
MIXES: dict[str, dict[str, Any]] = {
    "mixup": {"mixup_alpha": 1.0},
    "mixup, steep": {"mixup_alpha": 0.2},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "mixup or cutmix": {"mixup_alpha": 0.8, "cutmix_alpha": 0.4, "switch_probability": 0.3, "probability": 0.9},
}


def policies() -> dict[str, Policy]:
    """One policy for each entry, by its name in the file."""
    fields: dict[str, dict[str, Any]] = {name: {"operations": [crop]} for name, crop in CROPS.items()}
    fields |= {name: {"operations": [CROP, operation]} for name, operation in OPERATIONS.items()}
    fields |= {name: {"operations": [CROP], "mix": mix} for name, mix in MIXES.items()}
    return {name: Policy.model_validate({"name": "golden", **each}) for name, each in fields.items()}


def drawn(policy: Policy) -> list[str]:
    """The params of some views of a policy, as JSON."""
    return [
        params_to_json(
            draw_mixed(
                policy,
                seed=0,
                view_index=index,
                place=1,
                members=MEMBERS,
                image_size_px=lambda at: (375, 500),
                mask=lambda at: None,
            )
        )
        for index in range(NUM_VIEWS)
    ]


def rendered(step: Step, version: RendererVersion) -> list[str]:
    """Digests of the pixels after a step, of noise at `SIZES_PX`."""
    pixels = (apply_step(view(size_px, seed=9), step, renderer_version=version) for size_px in SIZES_PX)
    return [hashlib.sha256(each.tobytes()).hexdigest()[:32] for each in pixels]


def step_title(step: Step) -> str:
    """A step's name in the file."""
    return " ".join([step.name, *map(str, step.values), *filter(None, [step.option])])


def golden() -> dict[str, Any]:
    """All that the file holds."""
    return {
        "params": {name: [json.loads(each) for each in drawn(policy)] for name, policy in policies().items()},
        "pixels": {str(version): {step_title(step): rendered(step, version) for step in STEPS} for version in VERSIONS},
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(golden(), indent=1, sort_keys=True) + "\n")
