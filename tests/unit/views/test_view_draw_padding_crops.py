"""Draws of crops that reach beyond the image: where torchvision and mmsegmentation put them, at any resolution."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from kd_ray.config.crops import RandomCrop, RandomScaleCrop, ResizePad
from kd_ray.config.views import Policy
from kd_ray.views import (
    Bits,
    PaddedCropParams,
    ResizePadParams,
    draw,
    params_from_json,
    params_to_json,
    policy_identity,
)
from kd_ray.views.draw import DRAW_DOMAIN
from kd_ray.views.draw_padding_crops import MAX_PLACES

Mask = NDArray[np.uint8]

image_sizes_px = st.tuples(st.integers(1, 500), st.integers(1, 500))


def policy_of(**crop: Any) -> Policy:
    return Policy.model_validate({"name": "cropped", "operations": [crop]})


def crops(policy: Policy, image_size_px: tuple[int, int], *, num_views: int, mask_HW: Mask | None = None) -> list[Any]:
    return [
        draw(policy, seed=0, sample_id=5, view_index=index, image_size_px=image_size_px, mask_HW=mask_HW)[0]
        for index in range(num_views)
    ]


class TestRandomCrop:
    def test_all_places_of_a_padded_cifar_image_are_as_likely(self) -> None:
        found = crops(policy_of(kind="random_crop"), (32, 32), num_views=81 * 30)
        places = [(round(crop.left * 32, 9), round(crop.top * 32, 9)) for crop in found]
        every = [(left, top) for left in range(-4, 5) for top in range(-4, 5)]
        counts = np.array([places.count(place) for place in every])
        assert counts.sum() == len(found)
        assert ((counts - 30) ** 2 / 30).sum() < 129  # chi-square of 80 degrees of freedom, 1 in 2,500
        assert {(crop.width, crop.height, crop.fill) for crop in found} == {(1.0, 1.0, (0, 0, 0))}

    @settings(max_examples=100, deadline=None)
    @given(image_size_px=image_sizes_px, padding_px=st.integers(0, 7), reference_px=st.sampled_from([8, 32, 224]))
    def test_is_a_square_in_the_padded_image_moved_by_whole_pixels_of_the_reference(
        self, image_size_px: tuple[int, int], padding_px: int, reference_px: int
    ) -> None:
        height, width = image_size_px
        shorter = min(image_size_px)
        unit = shorter / reference_px
        policy = policy_of(kind="random_crop", padding_px=padding_px, reference_px=reference_px)
        for crop in crops(policy, image_size_px, num_views=3):
            assert crop.width * width == pytest.approx(shorter)
            assert crop.height * height == pytest.approx(shorter)
            for start, side in ((crop.left, width), (crop.top, height)):
                steps = start * side / unit
                assert steps == pytest.approx(round(steps), abs=1e-6)
                assert -padding_px <= round(steps)
                assert start * side + shorter <= side + padding_px * unit + 1e-6

    def test_a_longer_side_is_reached_up_to_its_end(self) -> None:
        lefts = {round(crop.left * 64) for crop in crops(policy_of(kind="random_crop"), (32, 64), num_views=1000)}
        assert lefts == set(range(-4, 37))


class TestResizePad:
    def test_nothing_is_drawn(self) -> None:
        found = crops(policy_of(kind="resize_pad", fill=[1, 2, 3]), (30, 40), num_views=3)
        assert set(found) == {ResizePadParams(fill=(1, 2, 3))}


def scale_crop(**changes: Any) -> Policy:
    return policy_of(**{"kind": "random_scale_crop", "cat_max_ratio": None, **changes})


class TestRandomScaleCrop:
    @settings(max_examples=100, deadline=None)
    @given(image_size_px=image_sizes_px, max_aspect=st.sampled_from([1.0, 4.0, 30.0]))
    def test_is_a_square_inside_or_padded_to_the_right_and_below(
        self, image_size_px: tuple[int, int], max_aspect: float
    ) -> None:
        height, width = image_size_px
        base = max(min(image_size_px), max(image_size_px) / max_aspect)
        for crop in crops(scale_crop(max_aspect=max_aspect), image_size_px, num_views=4):
            side = crop.width * width
            assert side == pytest.approx(crop.height * height)
            assert base / 2.0 <= side * (1 + 1e-12)
            assert side <= base / 0.5 * (1 + 1e-12)
            for start, length in ((crop.left, crop.width), (crop.top, crop.height)):
                assert start == 0.0 if length >= 1.0 else 0.0 <= start <= 1.0 - length

    def test_ratios_are_uniform(self) -> None:
        ratios = np.sort([60 / (crop.width * 80) for crop in crops(scale_crop(), (60, 80), num_views=2000)])
        expected = 0.5 + 1.5 * (np.arange(2000) + 0.5) / 2000
        assert np.abs(ratios - expected).max() / 1.5 < 0.04  # Kolmogorov and Smirnov, 1 in 300

    @settings(max_examples=50, deadline=None)
    @given(
        image_size_px=image_sizes_px,
        factor=st.integers(2, 7),
        kind=st.sampled_from(["random_crop", "random_scale_crop"]),
    )
    def test_only_the_aspect_ratio_matters(self, image_size_px: tuple[int, int], factor: int, kind: str) -> None:
        policy = policy_of(kind=kind) if kind == "random_crop" else scale_crop()
        larger_px = (image_size_px[0] * factor, image_size_px[1] * factor)
        assert crops(policy, larger_px, num_views=3) == crops(policy, image_size_px, num_views=3)


def shares_of(crop: PaddedCropParams, mask_HW: Mask, *, ignore_label: int = 255) -> NDArray[np.float64]:
    """The share of each class in a box, pixel by pixel; written apart from what is tested."""
    height, width = mask_HW.shape
    inside = [
        int(mask_HW[row, column])
        for row in range(height)
        for column in range(width)
        if crop.left <= (column + 0.5) / width < crop.left + crop.width
        and crop.top <= (row + 0.5) / height < crop.top + crop.height
        and mask_HW[row, column] != ignore_label
    ]
    counts = np.unique(inside, return_counts=True)[1]
    return counts / max(len(inside), 1)


class TestCatMaxRatio:
    """mmsegmentation's RandomCrop: ten places are looked at, and the one after them is taken as it is."""

    MASK_HW = np.zeros((30, 40), np.uint8)
    MASK_HW[20:] = 1
    MASK_HW[:, 32:] = 2
    MASK_HW[:5, :20] = 255

    def test_no_class_has_more_where_a_place_can_be_found(self) -> None:
        policy = scale_crop(ratio_range=(1.5, 2.0), cat_max_ratio=0.75)
        found = crops(policy, (300, 400), num_views=200, mask_HW=self.MASK_HW)
        shares = [shares_of(crop, self.MASK_HW) for crop in found]
        good = [len(each) > 1 and each.max() < 0.75 for each in shares]
        assert np.mean(good) > 0.98
        assert 0.1 < np.mean([found[i] == self.places(policy, i)[0] for i in range(200)]) < 0.8, "the mask decides"

    def test_the_first_good_place_is_taken(self) -> None:
        policy = scale_crop(ratio_range=(1.5, 2.0), cat_max_ratio=0.75)
        for index, crop in enumerate(crops(policy, (300, 400), num_views=60, mask_HW=self.MASK_HW)):
            *looked_at, last = self.places(policy, index)
            shares = [(place, shares_of(place, self.MASK_HW)) for place in looked_at]
            good = [place for place, each in shares if len(each) > 1 and each.max() < 0.75]
            assert crop == (good or [last])[0]

    @staticmethod
    def places(policy: Policy, view_index: int) -> list[PaddedCropParams]:
        """The eleven that one key gives in an image of 300x400: two numbers each, after that of the ratio."""
        crop = policy.operations[0]
        assert isinstance(crop, RandomScaleCrop)
        key = {"policy": policy_identity(policy), "seed": 0, "sample_id": 5, "view_index": view_index}
        bits = Bits(key, domain=DRAW_DOMAIN)
        height = 1 / bits.uniform_in(*crop.ratio_range)
        width = height / (400 / 300)
        found = []
        for _ in range(MAX_PLACES + 1):
            top, left = (1 - height) * bits.uniform(), (1 - width) * bits.uniform()
            found.append(PaddedCropParams(left=left, top=top, width=width, height=height, fill=crop.fill))
        return found

    @pytest.mark.parametrize("content", ["one class", "unlabelled", "one class and unlabelled"])
    def test_a_mask_of_one_class_ends_at_the_eleventh_place(self, content: str) -> None:
        mask_HW = np.full((30, 40), 255 if content == "unlabelled" else 3, np.uint8)
        if content == "one class and unlabelled":
            mask_HW[:, ::2] = 255
        policy = scale_crop(ratio_range=(2.0, 2.0), cat_max_ratio=0.75)
        (found,) = crops(policy, (30, 40), num_views=1, mask_HW=mask_HW)
        assert found == self.places(policy, 0)[-1]

    def test_the_ignored_label_is_the_policy_s(self) -> None:
        """Class 7 ignored leaves one class, and 255 is a class like any other."""
        mask_HW = np.full((30, 40), 7, np.uint8)
        mask_HW[:, ::2] = 255
        varied = scale_crop(cat_max_ratio=0.75)
        counted = crops(scale_crop(cat_max_ratio=0.75, ignore_label=9), (30, 40), num_views=20, mask_HW=mask_HW)
        shares = [shares_of(crop, mask_HW, ignore_label=9) for crop in counted]
        assert all(len(each) == 2 for each in shares)
        assert crops(varied, (30, 40), num_views=20, mask_HW=mask_HW) != counted

    @pytest.mark.parametrize("factor", [2, 5])
    def test_a_larger_mask_of_16_bits_decides_the_same(self, factor: int) -> None:
        policy = scale_crop(cat_max_ratio=0.75, ratio_range=(1.0, 2.0))
        larger_HW = self.MASK_HW.repeat(factor, 0).repeat(factor, 1).astype(np.uint16)
        small = crops(policy, (300, 400), num_views=40, mask_HW=self.MASK_HW)
        large = crops(policy, (300, 400), num_views=40, mask_HW=larger_HW)
        assert np.mean([one == other for one, other in zip(small, large, strict=True)]) > 0.8  # edges fall otherwise

    def test_a_mask_is_needed_and_others_look_at_none(self) -> None:
        with pytest.raises(AssertionError, match="mask"):
            crops(scale_crop(cat_max_ratio=0.75), (30, 40), num_views=1)
        plain = crops(scale_crop(), (30, 40), num_views=5)
        assert crops(scale_crop(), (30, 40), num_views=5, mask_HW=self.MASK_HW) == plain

    def test_it_may_lie_outside_of_the_mask_as_far_as_it_likes(self) -> None:
        tiny_HW = np.array([[1, 2]], np.uint8)
        found = crops(scale_crop(ratio_range=(10.0, 10.0), cat_max_ratio=0.75), (30, 40), num_views=5, mask_HW=tiny_HW)
        assert all(isinstance(crop, PaddedCropParams) for crop in found)


class TestParams:
    def test_the_json_form_never_changes(self) -> None:
        crop = PaddedCropParams(left=-0.125, top=0.0, width=1.5, height=1.0, fill=(124, 116, 104))
        text = '[{"fill":[124,116,104],"height":1.0,"kind":"padded_crop","left":-0.125,"top":0.0,"width":1.5}]'
        assert params_to_json((crop,)) == text
        assert params_from_json(text) == (crop,)
        letterbox = (ResizePadParams(fill=(0, 1, 2)),)
        assert params_to_json(letterbox) == '[{"fill":[0,1,2],"kind":"resize_pad"}]'
        assert params_from_json(params_to_json(letterbox)) == letterbox

    def test_each_field_decides_the_draw(self) -> None:
        """Another fill is another view, though its box may be the same numbers."""
        for plain, changes in (
            (RandomCrop(kind="random_crop"), ({"padding_px": 3}, {"reference_px": 64}, {"fill": (1, 0, 0)})),
            (ResizePad(kind="resize_pad"), ({"fill": (1, 0, 0)},)),
            (
                RandomScaleCrop(kind="random_scale_crop"),
                (
                    {"ratio_range": (0.5, 1.0)},
                    {"max_aspect": 2.0},
                    {"cat_max_ratio": None},
                    {"ignore_label": 0},
                    {"fill": (0, 0, 0)},
                ),
            ),
        ):
            assert len(changes) == len(type(plain).model_fields) - 1
            identities = [
                str(policy_identity(Policy(name="p", operations=(plain.model_copy(update=change),))))
                for change in ({}, *changes)
            ]
            assert len(set(identities)) == len(identities)


class TestRefusals:
    @pytest.mark.parametrize(
        ("crop", "told"),
        [
            ({"kind": "random_crop", "padding_px": 32}, "padding_px must be less than reference_px = 32, got 32"),
            ({"kind": "random_crop", "padding_px": -1}, "greater than or equal to 0"),
            ({"kind": "random_crop", "reference_px": 0}, "greater than 0"),
            ({"kind": "random_crop", "fill": [0, 0, 256]}, "less than or equal to 255"),
            ({"kind": "resize_pad", "fill": [0, 0]}, "fill"),
            ({"kind": "random_scale_crop", "ratio_range": [0.05, 2.0]}, "ratio_range must satisfy 0.1 <= low <= high"),
            ({"kind": "random_scale_crop", "ratio_range": [2.0, 0.5]}, "ratio_range must satisfy"),
            ({"kind": "random_scale_crop", "ratio_range": [0.5, 11.0]}, "ratio_range must satisfy"),
            ({"kind": "random_scale_crop", "max_aspect": 0.5}, "greater than or equal to 1"),
            ({"kind": "random_scale_crop", "cat_max_ratio": 1.0}, "less than 1"),
            ({"kind": "random_scale_crop", "cat_max_ratio": 0.0}, "greater than 0"),
            ({"kind": "random_scale_crop", "ignore_label": 65536}, "less than or equal to 65535"),
        ],
    )
    def test_absurd_values(self, crop: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            policy_of(**crop)

    def test_a_crop_is_the_first_and_only_one(self) -> None:
        for kind in ("random_crop", "resize_pad", "random_scale_crop"):
            for operations in (
                [{"kind": "horizontal_flip"}, {"kind": kind}],
                [{"kind": kind}, {"kind": "center_crop"}],
            ):
                with pytest.raises(ValidationError, match="must start with its only crop"):
                    Policy.model_validate({"name": "p", "operations": operations})
