"""Drawing: the same params for ever, from the key alone, distributed as torchvision's."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms import v2

from kd_ray.config.operations import RandomAffine
from kd_ray.config.views import EVALUATION_POLICY, CenterCrop, ColorJitter, Policy, RandomResizedCrop
from kd_ray.views import CenterCropParams, CropParams, JitterParams, ViewParams, draw, params_to_json

SIZE_PX = (375, 500)
GOLDEN_PARAMS = {
    (0, 0): (
        '[{"height":0.5410416807541282,"kind":"crop","left":0.09503935939434381,"top":0.04604948649'
        '7217997,"width":0.40251723427107466},{"flipped":false,"kind":"flip"},{"applied":true,"brig'
        'htness":1.2891092810650486,"contrast":1.2347252507572883,"hue":-0.03242995798080062,"kind"'
        ':"jitter","order":[0,2,1,3],"saturation":0.9596569863727005}]'
    ),
    (2**64 - 1, 3): (
        '[{"height":0.9649944882202374,"kind":"crop","left":0.33525983081660754,"top":0.03247188401'
        '1591026,"width":0.6618271871682627},{"flipped":true,"kind":"flip"},{"applied":true,"bright'
        'ness":0.845208952096818,"contrast":1.2733652678664122,"hue":0.0002666746584820967,"kind":"'
        'jitter","order":[3,1,0,2],"saturation":1.165250879643291}]'
    ),
}


def draw_many(policy: Policy, num_views: int, *, image_size_px: tuple[int, int] = SIZE_PX) -> list[ViewParams]:
    return [
        draw(policy, seed=0, sample_id=7, view_index=index, image_size_px=image_size_px) for index in range(num_views)
    ]


def crop_policy(scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Policy:
    return Policy(name="crop", operations=(RandomResizedCrop(kind="random_resized_crop", scale=scale, ratio=ratio),))


def crops(policy: Policy, num_views: int, *, image_size_px: tuple[int, int]) -> list[CropParams]:
    drawn = [params[0] for params in draw_many(policy, num_views, image_size_px=image_size_px)]
    return [crop for crop in drawn if isinstance(crop, CropParams)]


def jitters(num_views: int, **settings: float) -> list[JitterParams]:
    jitter = ColorJitter(kind="color_jitter", **settings)
    policy = Policy(name="jitter", operations=(*EVALUATION_POLICY.operations, jitter))
    drawn = [params[1] for params in draw_many(policy, num_views)]
    return [each for each in drawn if isinstance(each, JitterParams)]


@pytest.mark.parametrize(("sample_id", "view_index"), [(0, 0), (2**64 - 1, 3)])
def test_the_params_of_a_key_never_change(strong_policy: Policy, sample_id: int, view_index: int) -> None:
    params = draw(strong_policy, seed=0, sample_id=sample_id, view_index=view_index, image_size_px=SIZE_PX)
    assert params_to_json(params) == GOLDEN_PARAMS[sample_id, view_index]


def test_every_part_of_the_key_matters(strong_policy: Policy) -> None:
    key = {"seed": 0, "sample_id": 7, "view_index": 1}
    others = [{**key, name: value + 1} for name, value in key.items()]
    drawn = {draw(strong_policy, **each, image_size_px=SIZE_PX) for each in (key, *others)}
    assert len(drawn) == 4


def test_neither_name_nor_digest_size_matters(strong_policy: Policy) -> None:
    other = strong_policy.model_copy(update={"name": "other", "digest_size_px": (16, 16)})
    assert draw_many(other, 5) == draw_many(strong_policy, 5)


def test_a_view_does_not_depend_on_which_others_are_drawn(strong_policy: Policy) -> None:
    indices = list(range(32))
    random.Random(0).shuffle(indices)
    shuffled = {
        index: draw(strong_policy, seed=0, sample_id=7, view_index=index, image_size_px=SIZE_PX) for index in indices
    }
    assert [shuffled[index] for index in range(32)] == draw_many(strong_policy, 32)


def test_threads_draw_the_same(strong_policy: Policy) -> None:
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: draw_many(strong_policy, 20), range(8)))
    assert all(each == drawn[0] for each in drawn)


@settings(deadline=None)
@given(
    size_px=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    factor=st.integers(2, 7),
    sample_id=st.integers(0, 2**64 - 1),
)
def test_params_do_not_depend_on_the_resolution(
    strong_policy: Policy, size_px: tuple[int, int], factor: int, sample_id: int
) -> None:
    larger_px = (size_px[0] * factor, size_px[1] * factor)
    small, large = (
        draw(strong_policy, seed=0, sample_id=sample_id, view_index=0, image_size_px=each)
        for each in (size_px, larger_px)
    )
    assert small == large


@settings(deadline=None)
@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_boxes_lie_in_the_image(size_px: tuple[int, int]) -> None:
    for crop in crops(crop_policy((0.08, 1.0)), 5, image_size_px=size_px):
        assert 0 < crop.width <= 1
        assert 0 < crop.height <= 1
        assert 0 <= crop.left <= 1 - crop.width
        assert 0 <= crop.top <= 1 - crop.height


@pytest.mark.parametrize("image_size_px", [(3000, 4000), (2000, 6000)])
def test_crops_are_distributed_as_torchvision_s(image_size_px: tuple[int, int]) -> None:
    """Means and spreads of area, log ratio and centre over 3000 draws each, within 5 standard errors of a difference.

    Large images, so that torchvision's rounding to pixels is out of sight.
    """
    height, width = image_size_px
    ours = np.array(
        [
            (crop.width, crop.height, crop.left, crop.top)
            for crop in crops(crop_policy((0.08, 1.0)), 3000, image_size_px=image_size_px)
        ]
    )
    torch.manual_seed(0)
    image, transform = torch.empty(3, 1, 1).expand(3, height, width), v2.RandomResizedCrop(224, scale=(0.08, 1.0))
    boxes = [transform.make_params([image]) for _ in range(3000)]
    theirs = np.array(
        [(box["width"] / width, box["height"] / height, box["left"] / width, box["top"] / height) for box in boxes]
    )
    ours_N4, theirs_N4 = _features(ours), _features(theirs)
    standard_error = np.sqrt((ours_N4.var(axis=0) + theirs_N4.var(axis=0)) / 3000)
    assert np.all(np.abs(ours_N4.mean(axis=0) - theirs_N4.mean(axis=0)) < 5 * standard_error)
    np.testing.assert_allclose(ours_N4.std(axis=0), theirs_N4.std(axis=0), rtol=0.08)


def _features(boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    width, height, left, top = boxes_N4.T
    return np.stack([width * height, np.log(width / height), left + width / 2, top + height / 2], axis=1)


@pytest.mark.parametrize("image_size_px", [(30, 4000), (4000, 30)])
def test_where_no_box_fits_it_is_torchvision_s_centre_crop(image_size_px: tuple[int, int]) -> None:
    height, width = image_size_px
    (crop,) = crops(crop_policy((0.5, 1.0)), 1, image_size_px=image_size_px)
    image, transform = torch.empty(3, 1, 1).expand(3, height, width), v2.RandomResizedCrop(224, scale=(0.5, 1.0))
    theirs = transform.make_params([image])
    ours_px = (crop.top * height, crop.left * width, crop.height * height, crop.width * width)
    # theirs is rounded to pixels
    assert ours_px == pytest.approx([theirs[name] for name in ("top", "left", "height", "width")], abs=1.0)


def test_the_whole_image_is_drawn_when_nothing_else_is_allowed() -> None:
    (crop,) = crops(crop_policy((1.0, 1.0), (1.0, 1.0)), 1, image_size_px=(32, 32))
    assert crop == CropParams(left=0.0, top=0.0, width=1.0, height=1.0)


def test_a_centre_crop_keeps_only_its_fraction() -> None:
    assert draw_many(EVALUATION_POLICY, 1) == [(CenterCropParams(crop_fraction=1.0),)]


def test_jitter_factors_are_uniform_in_their_ranges() -> None:
    drawn = jitters(1000, brightness=0.4, contrast=1.0, saturation=0.2, hue=0.1)
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.0, 2.0),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        shares = (np.array([getattr(each, name) for each in drawn]) - low) / (high - low)
        assert shares.min() >= 0
        assert shares.max() <= 1
        assert abs(shares.mean() - 0.5) < 0.046  # 5 standard errors
        assert abs(shares.std() - 12**-0.5) < 0.03


def test_jitter_is_applied_with_its_probability_and_neutral_otherwise() -> None:
    drawn = jitters(1000, brightness=0.4, hue=0.1, probability=0.8)
    idle = [each for each in drawn if not each.applied]
    assert abs(len(idle) / 1000 - 0.2) < 0.065  # 5 standard errors
    assert {(each.brightness, each.contrast, each.saturation, each.hue) for each in idle} == {(1.0, 1.0, 1.0, 0.0)}


def test_a_strength_of_zero_is_exactly_neutral() -> None:
    assert {(each.contrast, each.hue) for each in jitters(100, brightness=0.4)} == {(1.0, 0.0)}


def test_a_policy_is_not_taken_for_an_equal_one() -> None:
    """0.0 and -0.0 are equal and have other JSON: which of them was drawn first must not matter."""
    crop = CenterCrop(kind="center_crop")
    plus, minus = (
        Policy(name="zero", operations=(crop, RandomAffine(kind="random_affine", degrees=(zero, 9.0))))
        for zero in (0.0, -0.0)
    )
    assert plus == minus
    drawn = [draw(each, seed=0, sample_id=1, view_index=0, image_size_px=(9, 9)) for each in (plus, minus, plus)]
    assert drawn[0] == drawn[2] != drawn[1]
