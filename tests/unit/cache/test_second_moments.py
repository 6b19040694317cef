"""Second moments merged in any order are those of all tokens together; the tokens are chosen by sample and view."""

import hashlib
from functools import reduce

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.cache.second_moments import SecondMoments, token_positions

MANY_IDS = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.sampled_from([0.0, 1e4, -1e6]),
    st.randoms(use_true_random=False),
    st.integers(0, 2**32 - 1),
)
def test_merging_in_any_order_equals_two_passes_over_everything(
    sizes: list[int], offset: float, order: "st.RandomGenerator", seed: int
) -> None:
    random = np.random.default_rng(seed)
    # each part is about a place of its own, far from zero: a one-pass sum of squares would lose all digits
    parts = [random.normal(offset + 10 * random.normal(), [1, 3, 1e-2], (size + 1, 3)) for size in sizes]
    every_XD = np.concatenate(parts).astype(np.longdouble)  # the oracle is no part of the error
    centred_XD = every_XD - every_XD.mean(axis=0)
    scatter_DD = (centred_XD.T @ centred_XD).astype(float)
    order.shuffle(parts)
    merged = reduce(SecondMoments.merged, map(SecondMoments.of, parts))
    assert merged.count == len(every_XD)
    np.testing.assert_allclose(merged.mean_D, every_XD.mean(axis=0).astype(float), rtol=1e-9, atol=1e-9)
    deviations_D = np.sqrt(np.diag(scatter_DD))
    errors_DD = np.abs(merged.scatter_DD - scatter_DD) / np.outer(deviations_D, deviations_D)
    assert errors_DD.max() < 1e-6
    np.testing.assert_allclose(merged.covariance(), merged.scatter_DD / merged.count)


def test_of_few_tokens_all_count() -> None:
    for count in (1, 5, 8):
        found = token_positions(MANY_IDS[:3], 7, num_tokens=count)
        np.testing.assert_array_equal(found, [range(count)] * 3)


def test_the_positions_are_those_of_the_key() -> None:
    """By the words of the definition, one after the other."""
    sample_id, view, num_tokens = 2**63 + 5, 3, 49
    digest = hashlib.blake2b(sample_id.to_bytes(8, "little") + view.to_bytes(4, "little")).digest()
    left = list(range(num_tokens))
    taken = [left.pop(int.from_bytes(digest[8 * place : 8 * place + 8], "little") % len(left)) for place in range(8)]
    found = token_positions(np.array([sample_id], np.uint64), view, num_tokens=num_tokens)
    np.testing.assert_array_equal(found, [sorted(taken)])


def test_eight_different_ones_of_every_view_and_every_position_as_often() -> None:
    num_tokens = 20
    found = token_positions(MANY_IDS, 0, num_tokens=num_tokens)
    assert found.shape == (len(MANY_IDS), 8)
    assert (np.diff(found, axis=1) > 0).all()
    counts = np.bincount(found.ravel(), minlength=num_tokens)
    expected, deviation = len(MANY_IDS) * 8 / num_tokens, np.sqrt(len(MANY_IDS) * 0.4 * 0.6)
    assert np.abs(counts - expected).max() < 5 * deviation
    assert (found != token_positions(MANY_IDS, 1, num_tokens=num_tokens)).any(axis=1).mean() > 0.99
