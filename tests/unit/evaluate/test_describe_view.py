"""Params in words: what was done is told in its order, what left the image alone is not, and nothing fails."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.config.views import ColorJitter, HorizontalFlip, Mix, Policy, RandomResizedCrop
from kd_ray.evaluate.describe_view import describe
from kd_ray.views import (
    BoxParams,
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    MixParams,
    PaddedCropParams,
    ResamplingParams,
    ResizePadParams,
    Step,
    StepsParams,
    draw_mixed,
)
from kd_ray.views.params import StepName
from tests.support.view_steps import STEPS

CROP = CropParams(left=0.125, top=0.3, width=0.546, height=0.41)
PADDED = PaddedCropParams(left=-0.25, top=0.0, width=1.5, height=1.0, fill=(0, 0, 0))
PLAIN = JitterParams(applied=True, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, order=(3, 0, 2, 1))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ((CROP,), "crop 0.12,0.30 0.55×0.41"),
        ((CenterCropParams(crop_fraction=1.0),), "centre crop"),
        ((CenterCropParams(crop_fraction=0.875),), "centre crop 0.88"),
        ((PADDED,), "crop -0.25,0.00 1.50×1.00"),
        ((ResizePadParams(fill=(0, 0, 0)),), "whole image, padded"),
        ((CROP, FlipParams(flipped=True)), "crop 0.12,0.30 0.55×0.41 · flipped"),
        ((CROP, FlipParams(flipped=False)), "crop 0.12,0.30 0.55×0.41"),
        ((CenterCropParams(crop_fraction=1.0), PLAIN), "centre crop"),
        (
            (CenterCropParams(crop_fraction=1.0), replace(PLAIN, contrast=0.75, brightness=1.2, hue=-0.034)),
            "centre crop · hue -12.2° · brightness ×1.20 · contrast ×0.75",
        ),
        ((CenterCropParams(crop_fraction=1.0), replace(PLAIN, contrast=0.75, applied=False)), "centre crop"),
    ],
)
def test_what_was_done_is_told_in_its_order(params, words):
    assert describe(params) == words


def test_a_mixup_names_partner_weight_and_the_view_of_the_partner():
    mix = MixParams(partner=0x1A2B3C4D5E6F7081, partner_params=(CROP, FlipParams(flipped=True)), weight=0.625, box=None)
    told = describe((CenterCropParams(crop_fraction=1.0), mix))
    assert told == "centre crop · mixup: 62.5 % this + 37.5 % sample 1a2b3c4d (crop 0.12,0.30 0.55×0.41 · flipped)"


def test_a_cut_mix_tells_the_box():
    box = BoxParams(left=0.1, top=0.2, width=0.5, height=0.25)
    mix = MixParams(partner=1, partner_params=(CenterCropParams(crop_fraction=1.0),), weight=0.875, box=box)
    assert describe((mix,)) == "cutmix: 87.5 % this + 12.5 % sample 00000000 (centre crop) at 0.10,0.20 0.50×0.25"


def test_steps_are_told_one_by_one_and_a_kernel_by_its_name():
    blur = Step(name="gaussian_blur", values=(0.0123,), option=None)
    rotate = Step(name="rotate", values=(-3.5,), option="bilinear")
    params = (CROP, ResamplingParams(interpolation="bicubic"), StepsParams(steps=(blur, rotate)), StepsParams(steps=()))
    assert describe(params).split(" · ")[1:] == [
        "bicubic kernel",
        "Gaussian blur of 1.2 % of the side",
        "rotate -3.5° (bilinear)",
    ]


FILL = (124.0, 116.0, 104.0)


@pytest.mark.parametrize(
    ("name", "values", "option", "words"),
    [
        ("gaussian_blur", (9.85e-05,), None, "Gaussian blur of less than 0.1 % of the side"),
        ("hue", (-0.0001,), None, ""),
        ("hue", (0.083,), None, "hue +29.9°"),
        ("add", (-20.7,), None, "add -20.7 levels"),
        ("solarize_add", (77.0,), None, "solarize add +77.0 levels"),
        ("hsv_saturation", (0.61,), None, "HSV saturation ×0.61"),
        ("sharpness", (1.001,), None, ""),
        ("solarize", (127.5,), None, "solarize from level 128"),
        ("posterize", (1.0,), None, "posterize to 1 bit"),
        ("equalize", (), None, "equalize"),
        ("flip_vertical", (), None, "flip vertical"),
        ("shear_x", (0.3, *FILL), "bilinear", "shear x +16.7° (bilinear)"),
        ("translate_y", (-0.23, *FILL), "nearest", "translate y -23.0 % (nearest)"),
        ("rotate", (0.0, *FILL), "nearest", ""),
        (
            "affine",
            (20.0, 0.1, 0.0, 1.2, -10.0, 5.0, *FILL),
            "bicubic",
            "rotate +20.0°, translate x +10.0 %, scale ×1.20, shear x -10.0°, shear y +5.0° (bicubic)",
        ),
        (
            "perspective",
            (0.1, 0.05, 0.9, 0.0, 1.0, 0.75, 0.0, 0.95, *FILL),
            "bilinear",
            "perspective by up to 25.0 % (bilinear)",
        ),
        ("erase", (0.2, 0.3, 0.5, 0.4, 77.0), "noise", "erased 0.20,0.30 0.50×0.40 (noise)"),
    ],
)
def test_a_step_is_told_in_units_that_people_read(name, values, option, words):
    """No fill, and nothing that is nothing."""
    assert describe((StepsParams(steps=(Step(name=name, values=values, option=option),)),)) == words


def test_every_step_has_words():
    told = {step.name: describe((StepsParams(steps=(step,)),)) for step in STEPS}
    assert set(told) == set(get_args(StepName))
    assert all(told.values())


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (1.0, "mixup: all this, nothing of sample 0000"),
        (0.0, "mixup: nothing of this, all sample 0000"),
        (255 / 256, "mixup: 99.6 % this + 0.4 % sample 0000"),
    ],
)
def test_a_share_is_not_rounded_to_all_or_nothing(weight, words):
    mix = MixParams(partner=1, partner_params=(CROP,), weight=weight, box=None)
    assert describe((mix,)).startswith(words)


POLICY = Policy(
    name="all",
    operations=(
        RandomResizedCrop(kind="random_resized_crop"),
        HorizontalFlip(kind="horizontal_flip"),
        ColorJitter(kind="color_jitter", brightness=0.4, hue=0.1),
    ),
    mix=Mix(mixup_alpha=0.4, cutmix_alpha=1.0),
)


@given(seed=st.integers(0, 2**32), view_index=st.integers(0, 100), place=st.integers(0, 2))
def test_every_drawn_view_is_one_line_that_begins_with_its_crop(seed, view_index, place):
    params = draw_mixed(
        POLICY, seed=seed, view_index=view_index, place=place, members=(1, 2, 3), image_size_px=lambda _: (30, 40)
    )
    words = describe(params)
    assert words.startswith("crop ")
    assert "\n" not in words
    assert ("flipped" in words.split("sample")[0]) == params[1].flipped
