"""Policies that cannot apply: refused where the recipe is read, all of them at once, with what to change."""

from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.errors import RecipeError
from tests.support.recipes import write

CROP = "{kind: random_resized_crop}"


def mistakes(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder), overrides)
    return [line.strip().removeprefix("command line: ") for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("operation", "field", "reason"),
    [
        ("{kind: random_affine, degrees: [10, -10]}", "degrees", "must satisfy -360 <= low <= high <= 360, got"),
        ("{kind: random_affine, scale: [0, 1]}", "scale", "must satisfy 0.05 <= low <= high <= 20, got"),
        ("{kind: random_affine, shear: [0, 0, -90, 0]}", "shear", "<= 80 for y, got (-90.0, 0.0)"),
        ("{kind: random_affine, translate: [0, 1.5]}", "translate", "less than or equal to 1"),
        ("{kind: random_affine, fill: [0, 0, 256]}", "fill", "less than or equal to 255"),
        ("{kind: random_perspective, distortion_scale: 1.1}", "distortion_scale", "less than or equal to 1"),
        ("{kind: gaussian_blur, sigma: [0, 57]}", "sigma", "<= high <= 56 (reference_px / 4), got (0.0, 57.0)"),
        ("{kind: gaussian_blur, sigma: [2, 1]}", "sigma", "must satisfy 0 <= low <= high"),
        ("{kind: gaussian_blur, reference_px: 0}", "reference_px", "greater than 0"),
        ("{kind: color_jitter, hue: 0.6}", "hue", "less than or equal to 0.5"),
        ("{kind: color_jitter, brightness: -0.1}", "brightness", "greater than or equal to 0"),
        ("{kind: solarize, threshold: 128}", "threshold", "less than or equal to 1"),
        ("{kind: posterize, bits: 9}", "bits", "less than or equal to 8"),
        ("{kind: sharpness, factor: -1}", "factor", "greater than or equal to 0"),
        ("{kind: equalize, probability: 1.5}", "probability", "less than or equal to 1"),
        ("{kind: horizontal_flip, probability: .nan}", "probability", "finite number"),
        ("{kind: rand_augment, magnitude: 11}", "magnitude", "from 0 to 10, got 11.0"),
        ("{kind: rand_augment, num_ops: 1000}", "num_ops", "less than or equal to 100"),
        ("{kind: rand_augment, source: torchvision, magnitude: 9.5}", "magnitude", "a whole number of 0 to 30"),
        ("{kind: rand_augment, source: torchvision, magnitude_std: 0.5}", "magnitude_std", "or take source: timm"),
        ("{kind: trivial_augment_wide, reference_px: 0}", "reference_px", "greater than 0"),
        ("{kind: random_erasing, scale: [0, 1.1]}", "scale", "must satisfy 0 <= low <= high <= 1, got"),
        ("{kind: random_erasing, scale: [0, 0]}", "scale", "nothing would be erased; raise it"),
        ("{kind: random_erasing, scale: [0.5, 1], ratio: [3, 4]}", "scale", "lower scale, or let ratio reach 1"),
        ("{kind: random_erasing, scale: [1, 1]}", "scale", "is smaller than a view; lower scale"),
        ("{kind: random_erasing, ratio: [0, 1]}", "ratio", "must satisfy 0.01 <= low <= high <= 100, got"),
        ("{kind: random_interpolation, choices: []}", "choices", "at least 1 item"),
    ],
)
def test_an_operation_that_cannot_apply_is_refused_at_its_field(
    tmp_path: Path, operation: str, field: str, reason: str
) -> None:
    (mistake,) = mistakes(tmp_path, f"views.policy.operations=[{CROP}, {operation}]")
    assert mistake.startswith(f"views.policy.operations.1.{field}")
    assert reason in mistake


@pytest.mark.parametrize(
    ("crop", "field", "reason"),
    [
        ("{kind: random_resized_crop, scale: [0.5, 1.2]}", "scale", "must satisfy 1e-06 <= low <= high <= 1, got"),
        ("{kind: random_resized_crop, scale: [1.0e-300, 1]}", "scale", "must satisfy 1e-06 <= low"),
        ("{kind: random_resized_crop, ratio: [1.0e-9, 1]}", "ratio", "must satisfy 0.01 <= low <= high <= 100"),
        ("{kind: center_crop, crop_fraction: 1.1}", "crop_fraction", "less than or equal to 1"),
        ("{kind: center_crop, crop_fraction: 0}", "crop_fraction", "greater than or equal to 0.001"),
    ],
)
def test_a_crop_larger_than_the_image_or_without_area_is_refused(
    tmp_path: Path, crop: str, field: str, reason: str
) -> None:
    (mistake,) = mistakes(tmp_path, f"views.policy.operations=[{crop}]")
    assert mistake.startswith(f"views.policy.operations.0.{field}: ")
    assert reason in mistake


def test_all_mistakes_of_an_operation_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        "views.policy.operations=[{kind: random_resized_crop, scale: [0.5, 2], ratio: [2, 1]}, "
        "{kind: random_affine, degrees: [5, -5], scale: [0, 1], shear: [0, 0, 0, 90]}, {kind: posterize, bits: 9}]",
    )
    assert [each.split(":")[0] for each in found] == [
        "views.policy.operations.0.scale",
        "views.policy.operations.0.ratio",
        "views.policy.operations.1.degrees",
        "views.policy.operations.1.scale",
        "views.policy.operations.1.shear",
        "views.policy.operations.2.bits",
    ]


def test_two_crops_and_two_kernels_are_told_at_once(tmp_path: Path) -> None:
    kernel = "{kind: random_interpolation}"
    found = mistakes(tmp_path, f"views.policy.operations=[{CROP}, {kernel}, {CROP}, {kernel}]")
    assert ["its only crop" in found[0], "can be given once" in found[1]] == [True, True]


@pytest.mark.parametrize(
    ("operation", "suggestion"),
    [
        ("{kind: gausian_blur}", "Did you mean gaussian_blur?"),
        ("{kind: color_jitter, brightnes: 0.4}", "Did you mean brightness?"),
        ("{kind: random_perspective, interpolation: bilnear}", "Did you mean bilinear?"),
    ],
)
def test_a_slip_of_the_pen_is_recognised(tmp_path: Path, operation: str, suggestion: str) -> None:
    (mistake,) = mistakes(tmp_path, f"views.policy.operations=[{CROP}, {operation}]")
    assert mistake.endswith(suggestion)


@pytest.mark.parametrize(
    ("mix", "path", "reason"),
    [
        ("{mixup_alpha: 1.0e-9}", "views.policy.mix.mixup_alpha", "must be 0, or 0.001 to 1"),
        ("{mixup_alpha: 0.2, cutmix_alpha: 1.0e-4}", "views.policy.mix.cutmix_alpha", "must be 0, or 0.001 to 1"),
        ("{mixup_alpha: 2}", "views.policy.mix.mixup_alpha", "less than or equal to 1"),
        ("{probability: 0.5}", "views.policy.mix", "give mixup_alpha or cutmix_alpha, or remove mix"),
        ("{mixup_alpha: 1, switch_probability: 2}", "views.policy.mix.switch_probability", "less than or equal to 1"),
    ],
)
def test_a_mix_that_cannot_be_drawn_is_refused(tmp_path: Path, mix: str, path: str, reason: str) -> None:
    (mistake,) = mistakes(tmp_path, f"views.policy.mix={mix}")
    assert mistake.startswith(f"{path}: ")
    assert reason in mistake


@pytest.mark.parametrize("path", ["teacher.input.size_px", "student.input.size_px", "views.policy.digest_size_px"])
def test_a_view_beyond_what_warps_can_count_is_refused(tmp_path: Path, path: str) -> None:
    (mistake,) = mistakes(tmp_path, f"{path}=[16384, 32]")
    assert mistake.startswith(f"{path}.0: got 16384; input should be less than 16384")
