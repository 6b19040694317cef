"""The mixture of sources: shares that hold in every stretch of a run, for any number of lanes, from any row on."""

from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd_ray.cache.mixture import COUNTED_AT_A_TIME, MAX_PERIOD, PICKS_AT_A_TIME, Mixture, integer_weights, pattern

weight_vectors = st.lists(st.integers(1, 300), min_size=2, max_size=20).map(tuple)
mixtures = st.builds(
    Mixture,
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=5).map(tuple),
    seed=st.integers(0, 2**31),
    num_lanes=st.sampled_from([1, 2, 6, 8]),
)


def lags(picks: NDArray[np.uint16], weights: tuple[int, ...]) -> NDArray[np.int64]:
    """[n, source]: picks of the source among the first n, less its share of n; in units of 1 / sum(weights)."""
    counts = np.zeros((len(picks) + 1, len(weights)), np.int64)
    counts[1:] = np.cumsum(picks[:, None] == np.arange(len(weights)), axis=0)
    return counts * sum(weights) - np.arange(len(picks) + 1)[:, None] * np.array(weights)


@settings(max_examples=200, deadline=None)
@given(weight_vectors)
@example((1, 1))
@example((1, 2999))
@example((1,) * 19 + (5000,))
@example(tuple(range(1, 21)))
def test_after_any_number_of_picks_every_source_is_within_one_of_its_share(weights: tuple[int, ...]) -> None:
    assert np.abs(lags(pattern(weights), weights)).max() < sum(weights)


@settings(max_examples=200, deadline=None)
@given(weight_vectors)
def test_in_any_run_of_picks_every_source_is_within_two_of_its_share(weights: tuple[int, ...]) -> None:
    # a run is the difference of two beginnings, also where it goes over the end of a period
    found = lags(np.tile(pattern(weights), 2), weights)
    assert np.ptp(found, axis=0).max() < 2 * sum(weights)


def test_a_pattern_of_the_longest_period_keeps_the_bound() -> None:
    weights = integer_weights([Fraction(1, prime) for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)])
    assert sum(weights) == MAX_PERIOD
    assert np.abs(lags(pattern(weights), weights)).max() < MAX_PERIOD


@given(weight_vectors)
def test_a_period_has_each_source_as_often_as_it_weighs(weights: tuple[int, ...]) -> None:
    assert tuple(np.bincount(pattern(weights)).tolist()) == weights


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([Fraction(5)], (1,)),
        ([Fraction(1, 10) * 300, Fraction(2) * 45], (1, 3)),
        ([Fraction(65_535), Fraction(1)], (65_535, 1)),
        ([Fraction(1, 3), Fraction(1, 6), Fraction(1, 2)], (2, 1, 3)),
        # 2 : 1 of 65,536 is 43,690.67 : 21,845.33
        ([Fraction(2_000_001), Fraction(1_000_000)], (43_691, 21_845)),
        # a millionth is less than one pick, and gets one
        ([Fraction(1_000_000), Fraction(1)], (65_535, 1)),
    ],
)
def test_weights_are_exact_where_they_are_small_and_else_the_nearest(
    shares: list[Fraction], weights: tuple[int, ...]
) -> None:
    assert integer_weights(shares) == weights


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 10**9).map(Fraction), min_size=2, max_size=20))
def test_rounded_weights_are_positive_and_less_than_a_pick_off(shares: list[Fraction]) -> None:
    weights = integer_weights(shares)
    assert min(weights) >= 1
    assert sum(weights) <= MAX_PERIOD
    due = [share / sum(shares) * sum(weights) for share in shares]
    if min(due) >= 1:
        assert max(abs(weight - each) for weight, each in zip(weights, due, strict=True)) < 1


@given(mixtures, st.integers(0, 200))
def test_a_row_of_all_lanes_is_a_run_of_the_pattern(mixture: Mixture, row: int) -> None:
    num_lanes = mixture.num_lanes
    found = [next(mixture.picks(lane, skip=row)) for lane in range(num_lanes)]
    beginning = np.resize(pattern(mixture.weights), (row + 1) * num_lanes)
    assert sorted(found) == sorted(beginning[row * num_lanes :].tolist())


@settings(max_examples=50, deadline=None)
@given(mixtures, st.integers(0, 2 * PICKS_AT_A_TIME))
def test_picks_go_on_where_they_were_left(mixture: Mixture, skip: int) -> None:
    lane = mixture.num_lanes - 1
    whole = list(islice(mixture.picks(lane, skip=0), skip + 20))
    assert list(islice(mixture.picks(lane, skip=skip), 20)) == whole[skip:]


@pytest.mark.parametrize("num_rows", [0, 1, 999, COUNTED_AT_A_TIME + 7])
def test_counts_are_those_of_the_picks(num_rows: int) -> None:
    mixture = Mixture(weights=(3, 1, 7), seed=5, num_lanes=6)
    picks = list(islice(mixture.picks(4, skip=0), num_rows))
    assert mixture.counts(4, num_rows=num_rows) == [picks.count(source) for source in range(3)]


def test_a_lane_is_not_tied_to_a_source_where_the_period_is_as_long_as_a_row() -> None:
    mixture = Mixture(weights=(1, 1, 1, 1), seed=0, num_lanes=4)
    for lane in range(4):
        counts = mixture.counts(lane, num_rows=4_000)
        assert min(counts) > 850, counts  # 1,000 expected, with a standard deviation of 27


def test_the_picks_are_the_same_forever() -> None:
    """A resumed run of any later version must draw what this one would have: if this fails, the code is wrong."""
    assert pattern((5, 3, 2)).tolist() == [0, 1, 0, 2, 0, 1, 0, 1, 0, 2]
    mixture = Mixture(weights=(5, 3, 2), seed=11, num_lanes=4)
    assert list(islice(mixture.picks(1, skip=1_000_001), 20)) == GOLDEN_PICKS


GOLDEN_PICKS = [0, 1, 0, 0, 2, 1, 0, 1, 1, 2, 0, 0, 2, 2, 1, 1, 0, 0, 2, 0]
