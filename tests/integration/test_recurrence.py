"""How often weighted samples come up: within one of what is due, each by itself and each group together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.cache.recurrence import ONE, Recurrence, recurrence

# sizes and weights of groups: from one sample among many to many alike
sizes_and_weights = st.lists(st.tuples(st.integers(1, 40), st.floats(1e-3, 1e3)), min_size=1, max_size=6)
turns = st.tuples(st.integers(0, 10_000), st.integers(1, 50)).map(lambda pair: range(pair[0], pair[0] + pair[1]))


def made(groups: list[tuple[int, float]], *, seed: int = 0, source: str = "") -> Recurrence:
    numbers = np.repeat(np.arange(len(groups)), [size for size, _ in groups])
    mixed = np.random.default_rng(1).permutation(numbers)
    return recurrence(mixed, [weight for _, weight in groups], seed=seed, source=source)


@given(sizes_and_weights, turns)
def test_over_any_turns_each_sample_is_within_one_of_its_rate(groups: list[tuple[int, float]], span: range) -> None:
    each = made(groups)
    came = each.before(span.stop) - each.before(span.start)
    assert (np.abs(came * ONE - len(span) * each.rates) < ONE).all()


@given(sizes_and_weights, turns)
def test_over_any_turns_each_group_is_within_one_of_its_rate(groups: list[tuple[int, float]], span: range) -> None:
    numbers = np.repeat(np.arange(len(groups)), [size for size, _ in groups])
    each = recurrence(numbers, [weight for _, weight in groups], seed=3, source="a")
    came = np.bincount(numbers, each.before(span.stop) - each.before(span.start)).astype(np.int64)
    due = [len(span) * int(each.rates[numbers == group].sum()) for group in range(len(groups))]
    assert all(abs(int(count) * ONE - wanted) < ONE for count, wanted in zip(came, due, strict=True))


@given(sizes_and_weights)
def test_rates_are_proportional_to_the_weights_and_one_on_average(groups: list[tuple[int, float]]) -> None:
    weights = np.concatenate([np.full(size, weight) for size, weight in groups])
    numbers = np.repeat(np.arange(len(groups)), [size for size, _ in groups])
    rates = recurrence(numbers, [weight for _, weight in groups], seed=0, source="").rates / ONE
    np.testing.assert_allclose(rates, len(weights) * weights / weights.sum(), rtol=1e-5, atol=2 / ONE)


@given(st.integers(1, 60), st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_equal_weights_give_every_sample_once_a_turn(size: int, weight: float, turn: int) -> None:
    assert made([(size, weight)]).counts(turn).tolist() == [1] * size


def test_the_first_turn_begins_with_nothing_shown() -> None:
    assert made([(30, 1.0), (3, 10.0)]).before(0).tolist() == [0] * 33


def test_a_part_of_the_samples_is_counted_as_in_the_whole() -> None:
    each = made([(30, 1.0), (3, 10.0)])
    assert each.counts(7, samples=slice(10, 25)).tolist() == each.counts(7)[10:25].tolist()


@settings(max_examples=20)
@given(st.integers(0, 2**30))
def test_very_large_rates_and_very_late_turns_are_exact(turn: int) -> None:
    """One sample that weighs as much as a million others together comes as often as they all do."""
    groups = np.zeros(1_000_001, np.int64)
    groups[-1] = 1
    rare = recurrence(groups, [1e-6, 1.0], seed=0, source="")
    rate, phase = int(rare.rates[-1]), int(rare.phases[-1])
    assert rare.before(turn, samples=slice(1_000_000, None)).tolist() == [(turn * rate + phase) >> 32]


def test_seed_and_source_decide_who_comes_in_which_turn() -> None:
    groups = [(50, 1.0), (50, 2.0)]
    first = made(groups).counts(0).tolist()
    assert made(groups).counts(0).tolist() == first
    assert made(groups, seed=1).counts(0).tolist() != first
    assert made(groups, source="a").counts(0).tolist() != first


def test_the_recurrence_is_the_same_forever() -> None:
    """A resumed run of any later version must draw what this one would have: if this fails, the code is wrong."""
    each = recurrence(np.array([0, 1, 1, 0, 2, 1]), [1.0, 2.0, 5.0], seed=11, source="photos")
    assert [each.counts(turn).tolist() for turn in (0, 1, 100)] == GOLDEN_COUNTS


GOLDEN_COUNTS = [[0, 1, 1, 0, 2, 1], [1, 1, 1, 0, 3, 1], [1, 1, 1, 0, 2, 1]]
