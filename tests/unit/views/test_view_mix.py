"""Mixup and CutMix: partners of the same row group, weights that labels can share, pixels in whole numbers."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from kd_ray.config.views import CenterCrop, HorizontalFlip, Mix, Policy, RandomResizedCrop
from kd_ray.views import BoxParams, ViewParams, draw, draw_mixed, mix_of, params_from_json, params_to_json, render
from kd_ray.views.mix import DrawnMix, draw_mix, mix_pixels

CROP, FLIP = RandomResizedCrop(kind="random_resized_crop"), HorizontalFlip(kind="horizontal_flip")
MEMBERS = (11, 22, 33, 44, 55)


def policy(**mix: float) -> Policy:
    return Policy(name="mixed", operations=(CROP, FLIP), mix=Mix(**mix) if mix else None)


def drawn(mix: Mix, view_index: int = 0, *, place: int = 0, members: tuple[int, ...] = MEMBERS) -> DrawnMix | None:
    return draw_mix(mix, {"view_index": view_index}, place=place, members=members)


def view(chosen: Policy, place: int = 0, view_index: int = 0, members: tuple[int, ...] = MEMBERS) -> ViewParams:
    return draw_mixed(
        chosen, seed=0, view_index=view_index, place=place, members=members, image_size_px=lambda at: (10, 10 + at)
    )


class TestDraw:
    def test_the_partner_is_any_other_member_equally_often(self) -> None:
        found = Counter(drawn(Mix(mixup_alpha=1.0), i, place=2).partner for i in range(4000))
        assert sorted(found) == [0, 1, 3, 4]
        assert all(abs(count - 1000) < 120 for count in found.values()), found  # 4 sigma

    @pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 0.8, 1.0])
    def test_weights_are_a_beta_distribution_in_steps_of_256(self, alpha: float) -> None:
        weights = np.array([drawn(Mix(mixup_alpha=alpha), i).weight for i in range(4000)])
        assert np.array_equal(weights * 256, np.rint(weights * 256))
        assert abs(weights.mean() - 0.5) < 0.035
        assert weights.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.1)  # of Beta(alpha, alpha)

    def test_the_weight_of_a_cut_mix_is_the_area_that_is_left(self) -> None:
        for i in range(200):
            found = drawn(Mix(cutmix_alpha=1.0), i)
            assert found.weight == 1.0 - found.box.width * found.box.height
            assert 0 <= found.box.left <= found.box.left + found.box.width <= 1
            assert 0 <= found.box.top <= found.box.top + found.box.height <= 1

    def test_both_are_drawn_where_both_are_wanted(self) -> None:
        both = Mix(mixup_alpha=0.2, cutmix_alpha=1.0, switch_probability=0.25, probability=0.8)
        found = [drawn(both, i) for i in range(4000)]
        assert sum(each is None for each in found) == pytest.approx(800, abs=110)
        assert sum(each is not None and each.box is not None for each in found) == pytest.approx(800, abs=110)

    def test_a_sample_alone_in_its_row_group_stays_unmixed(self) -> None:
        assert drawn(Mix(mixup_alpha=1.0), members=(11,)) is None

    def test_another_row_group_mixes_otherwise(self) -> None:
        weights = {
            drawn(Mix(mixup_alpha=1.0), members=members).weight for members in (MEMBERS, MEMBERS[::-1], MEMBERS[:4])
        }
        assert len(weights) == 3

    def test_the_draws_of_format_1_hold_for_ever(self) -> None:
        found = [drawn(Mix(mixup_alpha=0.2, cutmix_alpha=1.0), i) for i in range(3)]
        assert [(each.partner, each.weight, each.box is None) for each in found] == GOLDEN

    @pytest.mark.parametrize("settings", [{}, {"mixup_alpha": 0.0}, {"mixup_alpha": 1.5}, {"probability": 2.0}])
    def test_what_cannot_be_is_refused(self, settings: dict[str, float]) -> None:
        with pytest.raises(ValidationError):
            Mix(**settings)


GOLDEN = [(1, 0.96484375, True), (4, 0.0078125, True), (2, 0.09765625, True)]


class TestParams:
    def test_the_partner_brings_its_own_unmixed_view(self) -> None:
        params = view(policy(mixup_alpha=1.0), place=1, view_index=3)
        mix = mix_of(params)
        assert mix is not None
        at = MEMBERS.index(mix.partner)
        unmixed = view(policy(mixup_alpha=1.0), place=at, view_index=3)[:-1]
        assert mix.partner_params == unmixed
        assert len(params) == 3

    def test_without_a_mix_nothing_depends_on_the_row_group(self) -> None:
        alone = view(policy(), place=0, members=(33,))
        expected = draw(policy(), seed=0, sample_id=33, view_index=0, image_size_px=(10, 10))
        assert alone == expected
        assert mix_of(alone) is None

    def test_json_gives_back_the_same_bits(self) -> None:
        for i in range(20):
            params = view(policy(mixup_alpha=0.2, cutmix_alpha=1.0), view_index=i)
            assert params_from_json(params_to_json(params)) == params


def noise(seed: int, height: int = 31, width: int = 47) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestPixels:
    @given(weight=st.integers(0, 256), height=st.integers(1, 40), width=st.integers(1, 70))
    def test_mixup_is_the_rounded_weighted_mean(self, weight: int, height: int, width: int) -> None:
        own, other = noise(1, height, width), noise(2, height, width)
        exact = (own.astype(np.int64) * weight + other.astype(np.int64) * (256 - weight)) / 256
        found = mix_pixels(own, other, weight=weight / 256, box=None)
        assert np.array_equal(found, np.floor(exact + 0.5).astype(np.uint8))

    @pytest.mark.parametrize("is_optimized", [True, False])
    def test_mixup_is_exact_for_all_levels_whatever_way_opencv_takes(self, is_optimized: bool) -> None:
        own, other = (np.ascontiguousarray(levels.astype(np.uint8)) for levels in np.mgrid[:256, :256])
        cv2.setUseOptimized(is_optimized)
        try:
            for weight in range(0, 257, 8):
                exact = (own.astype(np.int64) * weight + other.astype(np.int64) * (256 - weight) + 128) >> 8
                np.testing.assert_array_equal(mix_pixels(own, other, weight=weight / 256, box=None), exact)
        finally:
            cv2.setUseOptimized(True)

    def test_cut_mix_pastes_the_partner_into_the_box(self) -> None:
        own, other = noise(1, 10, 20), noise(2, 10, 20)
        box = BoxParams(left=0.25, top=0.5, width=0.5, height=0.5)
        mixed = mix_pixels(own, other, weight=0.75, box=box)
        assert np.array_equal(mixed[5:, 5:15], other[5:, 5:15])
        mixed[5:, 5:15] = own[5:, 5:15]
        assert np.array_equal(mixed, own)

    def test_the_mixed_view_is_a_mix_of_both_views_at_every_size(self) -> None:
        params = view(Policy(name="m", operations=(CenterCrop(kind="center_crop"), FLIP), mix=Mix(mixup_alpha=1.0)))
        mix = mix_of(params)
        for size_px in ((8, 8), (20, 30)):
            settings = {"size_px": size_px, "interpolation": "bilinear"}
            both = render(noise(1), params, **settings, partner_HW3=noise(2))
            own = render(noise(1), params[:-1], **settings)
            other = render(noise(2), mix.partner_params, **settings)
            assert np.array_equal(both, mix_pixels(own, other, weight=mix.weight, box=None))

    @pytest.mark.parametrize("weight", [0.0, 1.0])
    def test_a_weight_of_none_or_all_shows_one_of_the_two(self, weight: float) -> None:
        params = view(Policy(name="m", operations=(CenterCrop(kind="center_crop"), FLIP), mix=Mix(mixup_alpha=1.0)))
        mix = replace(mix_of(params), weight=weight)
        settings = {"size_px": (20, 30), "interpolation": "bilinear"}
        both = render(noise(1), (*params[:-1], mix), **settings, partner_HW3=noise(2))
        own, other = (
            render(noise(1), params[:-1], **settings),
            render(noise(2), mix.partner_params, **settings),
        )
        assert np.array_equal(both, mix_pixels(own, other, weight=weight, box=None))
        assert np.array_equal(both, own if weight else other)
