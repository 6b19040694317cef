"""Named view policies, each with the numbers of its source; what differs from it is in docs/views.md.

Plain values, as a recipe would write them: `Policy` resolves a name to them, so a resolved recipe shows all of it.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kd_ray.config.base import Misfits
from kd_ray.config.layers import merged

_FLIP = {"kind": "horizontal_flip"}
_INCEPTION = {"kind": "random_resized_crop"}  # area of 0.08 to 1, ratio of 3/4 to 4/3
# where a source names ColorJitter without numbers: timm's `color_jitter: 0.4`, which leaves the hue alone
_JITTER = {"kind": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}


def _dino_crop(scale: tuple[float, float], *, blur: float, size: int) -> tuple[Mapping[str, Any], ...]:
    """What all crops of DINO share; its blur is in pixels of the crop."""
    return (
        {**_INCEPTION, "scale": scale},
        {"kind": "random_interpolation", "choices": ("bicubic",)},
        _FLIP,
        {**_JITTER, "saturation": 0.2, "hue": 0.1, "probability": 0.8},
        {"kind": "random_grayscale", "probability": 0.2},
        {"kind": "gaussian_blur", "sigma": (0.1, 2.0), "reference_px": size, "probability": blur},
    )


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # crop and flip: the least that training on ImageNet does
        "weak": {"operations": (_INCEPTION, _FLIP)},
        # lightly-ai/lightly-train: src/lightly_train/_methods/distillation/distillation_transform.py (strength 0.5
        # times 0.8, 0.8, 0.4, 0.2) and distillation.py, _mixup_data (a weight uniform in 0 … 1)
        "lightly": {
            "operations": (
                {**_INCEPTION, "scale": (0.14, 1.0)},
                _FLIP,
                {**_JITTER, "saturation": 0.2, "hue": 0.1, "probability": 0.8},
                {"kind": "random_grayscale", "probability": 0.2},
                {"kind": "gaussian_blur", "sigma": (0.0, 0.1)},
            ),
            "mix": {"mixup_alpha": 1.0},
        },
        # google-research/big_vision: big_vision/configs/proj/distill/bit_i1k.py (decode_jpeg_and_inception_crop, whose
        # area begins at 5 % and whose ratio ends at 1.33, in big_vision/pp/ops_image.py; mixup p=1); Beyer et al. 2022
        "patient": {
            "operations": (
                {**_INCEPTION, "scale": (0.05, 1.0), "ratio": (0.75, 1.33)},
                _FLIP,
                {"kind": "random_interpolation", "choices": ("bilinear",)},
            ),
            "mix": {"mixup_alpha": 1.0},
        },
        "paper_vit": {"operations": (_INCEPTION, _JITTER, _FLIP), "mix": {"mixup_alpha": 0.2}},
        "paper_resnet": {"operations": (_INCEPTION, _JITTER, _FLIP, {"kind": "trivial_augment_wide"})},
        "paper_probe": {"operations": ({"kind": "center_crop", "crop_fraction": 0.875},)},
        # open-mmlab/mmsegmentation: configs/_base_/datasets/ade20k.py (RandomResize of (2048, 512) by 0.5 to 2,
        # RandomCrop of 512x512, RandomFlip, PhotoMetricDistortion) and mmseg/datasets/transforms/transforms.py
        "paper_seg": {
            "operations": (
                {"kind": "random_scale_crop", "ratio_range": (0.5, 2.0), "cat_max_ratio": 0.75},
                _FLIP,
                {"kind": "photometric_distortion"},
            ),
        },
        # Deci-AI/super-gradients: src/super_gradients/recipes/dataset_params/imagenet_resnet50_kd_dataset_params.yaml
        # and src/super_gradients/training/datasets/auto_augment.py (a copy of timm's, with bilinear warps)
        "supergradients": {
            "operations": (
                _INCEPTION,
                {"kind": "random_interpolation", "choices": ("bilinear", "bicubic")},
                _FLIP,
                {
                    "kind": "rand_augment",
                    "source": "timm",
                    "magnitude": 7.0,
                    "magnitude_std": 0.5,
                    "interpolations": ("bilinear",),
                },
            ),
            "mix": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
            "repeats": 3,  # RepeatAugSampler, whose num_repeats is 3 (Hoffer et al. 2020)
        },
        # huggingface/pytorch-image-models (timm/data/transforms_factory.py, timm/data/random_erasing.py) as DeiT calls
        # it: rand-m9-mstd0.5-inc1, mixup 0.8, cutmix 1, reprob 0.25, remode pixel, bicubic (Touvron et al. 2021)
        "imagenet_strong": {
            "operations": (
                _INCEPTION,
                {"kind": "random_interpolation", "choices": ("bicubic",)},
                _FLIP,
                {
                    "kind": "rand_augment",
                    "source": "timm",
                    "magnitude": 9.0,
                    "magnitude_std": 0.5,
                    "increasing": True,
                    "interpolations": ("bicubic",),
                },
                {
                    "kind": "random_erasing",
                    "probability": 0.25,
                    "scale": (0.02, 1 / 3),
                    "ratio": (0.3, 1 / 0.3),
                    "value": "noise",
                },
            ),
            "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
        },
        # facebookresearch/dino: main_dino.py (DataAugmentationDINO; --global_crops_scale, --local_crops_scale,
        # --local_crops_number) and utils.py (GaussianBlur, Solarization); Caron et al. 2021
        "dino_multicrop": {
            "kinds": {
                "global": {"operations": _dino_crop((0.4, 1.0), blur=1.0, size=224), "size_px": (224, 224)},
                "global_solarized": {
                    "operations": (
                        *_dino_crop((0.4, 1.0), blur=0.1, size=224),
                        {"kind": "solarize", "threshold": 0.5, "probability": 0.2},
                    ),
                    "size_px": (224, 224),
                },
                "local": {
                    "operations": _dino_crop((0.05, 0.4), blur=0.5, size=96),
                    "num_crops": 8,
                    "size_px": (96, 96),
                },
            }
        },
    }
)


def with_preset(values: Any) -> Any:
    """The fields of a policy where `values` is the name of a preset, or holds one as `preset` beside other fields.

    Those are laid over the preset's as a recipe is over its base: `mix: {cutmix_alpha: 1.0}` leaves `mixup_alpha`, and
    `operations: {0: {scale: [0.2, 1.0]}}` all operations but the first.
    Of `kinds`, a new name adds a kind, and null takes one out.

    Raises:
        Misfits: there is no such preset, or no such index in a list of it.
    """
    if isinstance(values, str):
        return _fields(values)
    if isinstance(values, dict) and "preset" in values:
        others = {key: value for key, value in values.items() if key != "preset"}
        preset = _fields(values["preset"])
        fields = merged(preset, others)
        if isinstance(fields.get("kinds"), dict):
            taken_out = {name for name in preset.get("kinds", {}) if fields["kinds"][name] is None}
            fields["kinds"] = {name: kind for name, kind in fields["kinds"].items() if name not in taken_out}
        return fields
    return values


def names_preset(values: Any) -> bool:
    """Whether `with_preset` would find a preset."""
    name = values.get("preset") if isinstance(values, dict) else values
    return isinstance(name, str) and name in PRESETS


def _fields(name: Any) -> dict[str, Any]:
    if not isinstance(name, str) or name not in PRESETS:
        close = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise Misfits([("preset", f"there is no preset {name!r}; {hint}There are: {', '.join(PRESETS)}")])
    return {"name": name, **PRESETS[name]}
