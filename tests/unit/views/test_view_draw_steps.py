"""Drawing steps: within the configured ranges, as often as configured, and resolution-independent."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torchvision.transforms import v2

from kd_ray.config.operations import Operation
from kd_ray.config.views import EVALUATION_POLICY, Policy
from kd_ray.errors import CacheCorrupt
from kd_ray.views import (
    Bits,
    ResamplingParams,
    Step,
    StepsParams,
    ViewParams,
    draw,
    params_from_json,
    params_to_json,
    policy_identity,
    render,
)
from kd_ray.views.bits import standard_normal

OPERATION: TypeAdapter[Operation] = TypeAdapter(Operation)
KINDS: dict[str, dict[str, Any]] = {
    "vertical_flip": {},
    "random_grayscale": {},
    "gaussian_blur": {},
    "solarize": {},
    "posterize": {"bits": 3},
    "equalize": {},
    "autocontrast": {},
    "sharpness": {"factor": 1.5},
    "invert": {},
    "random_affine": {"degrees": (-20, 40), "translate": (0.1, 0.2), "scale": (0.5, 2.0), "shear": (-5, 5, 1, 3)},
    "random_perspective": {},
    "rand_augment": {"magnitude_std": 0.5},
    "trivial_augment_wide": {},
    "random_erasing": {},
    "random_interpolation": {},
}


def policy(kind: str, **fields: Any) -> Policy:
    operation = OPERATION.validate_python({"kind": kind, **fields})
    return Policy(name="steps", operations=(*EVALUATION_POLICY.operations, operation))


def draw_many(kind: str, num_views: int, **fields: Any) -> list[ViewParams]:
    chosen = policy(kind, **fields)
    return [draw(chosen, seed=0, sample_id=3, view_index=index, image_size_px=(4, 5)) for index in range(num_views)]


def steps_of(kind: str, num_views: int, **fields: Any) -> list[tuple[Step, ...]]:
    drawn = [params[1] for params in draw_many(kind, num_views, **fields)]
    return [each.steps for each in drawn if isinstance(each, StepsParams)]


def values_of(kind: str, num_views: int, **fields: Any) -> np.ndarray:
    """Those of the single steps of views that have one."""
    return np.array([steps[0].values for steps in steps_of(kind, num_views, **fields) if steps])


def check_uniform(values_N: np.ndarray, low: float, high: float) -> None:
    shares_N = (values_N - low) / (high - low)
    assert shares_N.min() >= 0
    assert shares_N.max() <= 1
    assert abs(shares_N.mean() - 0.5) < 5 * (12 * len(shares_N)) ** -0.5
    assert abs(shares_N.std() - 12**-0.5) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_json_gives_back_the_same_bits(kind: str) -> None:
    for params in draw_many(kind, 20, **KINDS[kind]):
        assert params_from_json(params_to_json(params)) == params


@pytest.mark.parametrize("kind", KINDS)
def test_every_drawn_view_renders(kind: str) -> None:
    image_HW3 = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    for params in draw_many(kind, 8, **KINDS[kind]):
        assert render(image_HW3, params, size_px=(13, 17), interpolation="bilinear").shape == (13, 17, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_part_of_the_identity(kind: str) -> None:
    chosen = policy(kind, **KINDS[kind])
    (_, identity) = policy_identity(chosen)["operations"]
    assert set(identity) == set(type(chosen.operations[1]).model_fields)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"rand_augment", "trivial_augment_wide", "random_interpolation"}))
def test_an_operation_is_applied_with_its_probability(kind: str) -> None:
    for probability in (0.0, 0.3, 1.0):
        found = steps_of(kind, 1000, **{**KINDS[kind], "probability": probability})
        assert abs(sum(map(len, found)) / 1000 - probability) <= 5 * (probability * (1 - probability) / 1000) ** 0.5


def test_blur_is_a_share_of_the_reference_view() -> None:
    sigmas = values_of("gaussian_blur", 1000, sigma=(0.5, 2.5), reference_px=100)[:, 0]
    check_uniform(sigmas, 0.005, 0.025)


def test_affine_values_are_uniform_in_their_ranges() -> None:
    values_N9 = values_of("random_affine", 1000, **KINDS["random_affine"])
    ranges = ((-20, 40), (-0.1, 0.1), (-0.2, 0.2), (0.5, 2.0), (-5, 5), (1, 3))
    for values_N, (low, high) in zip(values_N9.T, ranges, strict=False):
        check_uniform(values_N, low, high)
    assert np.all(values_N9[:, 6:] == 0)


def test_corners_are_distributed_as_torchvision_s() -> None:
    ours_N8 = values_of("random_perspective", 1500, distortion_scale=0.6, probability=1.0)[:, :8]
    inward_N8 = np.where(np.array([0, 0, 1, 0, 1, 1, 0, 1], dtype=bool), 1 - ours_N8, ours_N8)
    for values_N in inward_N8.T:
        check_uniform(values_N, 0.0, 0.3)
    torch.manual_seed(0)
    theirs = v2.RandomPerspective(0.6)
    mine_N2 = np.array([_coefficients(corners)[0:5:4] for corners in ours_N8])
    theirs_N2 = np.array([theirs.make_params([torch.empty(3, 1001, 1001)])["coefficients"][0:5:4] for _ in ours_N8])
    # of the scales of x and y, whose tails are too heavy for means
    for share in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(np.quantile(mine_N2, share, axis=0), np.quantile(theirs_N2, share, axis=0), rtol=0.1)


def _coefficients(corners: np.ndarray) -> list[float]:
    from torchvision.transforms.functional import _get_perspective_coeffs

    side = 1000
    ends = [[round(x * side), round(y * side)] for x, y in corners.reshape(4, 2)]
    found: list[float] = _get_perspective_coeffs([[0, 0], [side, 0], [side, side], [0, side]], ends)
    return found


def test_erased_boxes_are_distributed_as_torchvision_s() -> None:
    ours_N5 = values_of("random_erasing", 2000, probability=1.0)
    torch.manual_seed(0)
    theirs = v2.RandomErasing(p=1.0)
    image = torch.empty(3, 2000, 2000)
    drawn = [theirs.make_params([image]) for _ in range(500)]
    theirs_N4 = np.array([(each["j"], each["i"], each["w"], each["h"]) for each in drawn]) / 2000
    for ours_N, theirs_N in zip(_box_features(ours_N5), _box_features(theirs_N4), strict=True):
        error = (ours_N.var() / len(ours_N) + theirs_N.var() / len(theirs_N)) ** 0.5
        assert abs(ours_N.mean() - theirs_N.mean()) < 5 * error
        np.testing.assert_allclose(ours_N.std(), theirs_N.std(), rtol=0.12)
    assert np.all(ours_N5[:, :2] >= 0)
    assert np.all(ours_N5[:, :2] + ours_N5[:, 2:4] <= 1)
    assert len(set(ours_N5[:, 4])) == len(ours_N5)  # each with noise of its own


def _box_features(boxes_N4: np.ndarray) -> list[np.ndarray]:
    left, top, width, height = boxes_N4.T[:4]
    return [width * height, np.log(height / width), left + width / 2, top + height / 2]


def test_a_box_that_does_not_fit_in_ten_tries_erases_nothing() -> None:
    assert steps_of("random_erasing", 20, probability=1.0, scale=(1 - 1e-9, 1.0)) == [()] * 20


def test_the_crop_is_resampled_by_each_choice_equally_often() -> None:
    drawn = [params[1] for params in draw_many("random_interpolation", 1000, choices=("nearest", "bicubic"))]
    found = [each.interpolation for each in drawn if isinstance(each, ResamplingParams)]
    assert set(found) == {"nearest", "bicubic"}
    assert abs(found.count("nearest") - 500) < 80  # 5 standard errors


def test_the_drawn_kernel_overrides_the_reader_s() -> None:
    image_HW3 = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (params,) = draw_many("random_interpolation", 1, choices=("nearest",))
    found_HW3 = render(image_HW3, params, size_px=(20, 20), interpolation="bicubic")
    np.testing.assert_array_equal(found_HW3, render(image_HW3, params[:1], size_px=(20, 20), interpolation="nearest"))


def test_normal_numbers_are_normal() -> None:
    bits = Bits({"test": "normal"}, domain="test")
    drawn_N = np.sort([standard_normal(bits) for _ in range(4000)])
    expected_N = np.array([NormalDist().cdf(each) for each in drawn_N])
    steps_N = (np.arange(4000) + 0.5) / 4000
    assert np.abs(expected_N - steps_N).max() < 1.95 / 4000**0.5  # Kolmogorov and Smirnov, 1 in 1000


def test_normal_numbers_never_change() -> None:
    bits = Bits({"test": "normal"}, domain="test")
    assert [standard_normal(bits) for _ in range(3)] == NORMALS


NORMALS = [-0.6542748307576338, 0.7822620962017004, -0.31687963107972505]


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=12), st.none() | st.text(max_size=8))
def test_any_step_survives_json(values: list[float], option: str | None) -> None:
    params: ViewParams = (StepsParams(steps=(Step(name="affine", values=tuple(values), option=option),)),)
    assert params_from_json(params_to_json(params)) == params


@pytest.mark.parametrize(
    "text",
    [
        '[{"kind":"steps"}]',
        '[{"kind":"steps","steps":[{"name":"twirl","option":null,"values":[]}]}]',
        '[{"kind":"steps","steps":[{"name":"invert","values":[]}]}]',
        '[{"kind":"steps","steps":[],"more":1}]',
        '[{"kind":"resampling","interpolation":"lanczos"}]',
    ],
)
def test_steps_that_nobody_wrote_are_refused(text: str) -> None:
    with pytest.raises(CacheCorrupt, match="view params"):
        params_from_json(text)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gaussian_blur", {"sigma": (2.0, 1.0)}),
        ("gaussian_blur", {"sigma": (-1.0, 1.0)}),
        ("solarize", {"threshold": 128}),
        ("posterize", {"bits": 9}),
        ("posterize", {}),
        ("sharpness", {"factor": -0.1}),
        ("random_affine", {"shear": (0, 0, 90, 90)}),
        ("random_affine", {"scale": (0.0, 1.0)}),
        ("random_affine", {"fill": (0, 0, 256)}),
        ("rand_augment", {"magnitude": 11}),
        ("rand_augment", {"source": "torchvision", "magnitude": 31}),
        ("rand_augment", {"source": "torchvision", "magnitude": 8.5}),
        ("rand_augment", {"source": "torchvision", "magnitude_std": 0.5}),
        ("rand_augment", {"source": "torchvision", "increasing": True}),
        ("random_erasing", {"ratio": (0.0, 1.0)}),
        ("random_erasing", {"value": "random"}),
        ("random_interpolation", {"choices": ()}),
        ("random_interpolation", {"choices": ("lanczos",)}),
    ],
)
def test_what_cannot_be_is_refused(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OPERATION.validate_python({"kind": kind, **fields})


def test_a_second_interpolation_is_refused() -> None:
    twice = (*policy("random_interpolation").operations, *policy("random_interpolation").operations[1:])
    with pytest.raises(ValidationError, match="once"):
        Policy(name="twice", operations=twice)
