"""The stream of uniforms: fixed for ever, unbiased, and apart for different keys."""

import hashlib
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.storage.base import canonical_json
from kd_ray.views.bits import Bits, Encoded

KEY = {"seed": 0, "sample_id": 2**64 - 1, "word": "ü"}
GOLDEN_PHILOX = [5599841837815857887, 15655913098571550255, 2880178291573394738, 573812481542357666]
GOLDEN_WORDS = [17113111852569316232, 15738059642968943557]  # the 1st and the 18th, which is of the second batch
GOLDEN_NUMBERS = (0.9277036524271544, 0.8722342714710161, 738, (3, 0, 1, 2, 4), True)


def test_numpy_keeps_its_promise_of_raw_philox_words() -> None:
    """If only this test fails, NumPy broke NEP 19; if only the next ones do, we changed our keys or our map."""
    assert np.random.Philox(key=1).random_raw(4).tolist() == GOLDEN_PHILOX


def test_the_words_of_a_key_never_change() -> None:
    bits = Bits(KEY, domain="test")
    assert [bits.word() for _ in range(18)][::17] == GOLDEN_WORDS


def test_the_numbers_made_of_the_words_never_change() -> None:
    bits = Bits(KEY, domain="test")
    numbers = (
        bits.uniform(),
        bits.uniform_in(-2.0, 3.0),
        bits.integer_below(1000),
        bits.permutation(5),
        bits.chance(0.5),
    )
    assert numbers == GOLDEN_NUMBERS


def test_a_uniform_is_the_upper_53_bits_of_a_word() -> None:
    words, uniforms = Bits(KEY, domain="test"), Bits(KEY, domain="test")
    assert [uniforms.uniform() for _ in range(40)] == [(words.word() >> 11) / 2**53 for _ in range(40)]


@pytest.mark.parametrize("other", [{"seed": 1}, {"sample_id": 2**64 - 2}, {"word": "u"}])
def test_another_key_gives_another_stream(other: dict[str, object]) -> None:
    assert Bits({**KEY, **other}, domain="test").word() != Bits(KEY, domain="test").word()


def test_another_domain_gives_another_stream() -> None:
    assert Bits(KEY, domain="a").word() != Bits(KEY, domain="b").word()


def test_the_order_of_the_key_does_not_matter() -> None:
    assert Bits(dict(reversed(KEY.items())), domain="test").word() == Bits(KEY, domain="test").word()


@settings(deadline=None)
@given(st.integers(1, 2**64), st.integers(0, 2**32))
def test_integers_are_below_n(n: int, seed: int) -> None:
    assert 0 <= Bits({"seed": seed}, domain="test").integer_below(n) < n


def test_integers_are_unbiased_where_a_plain_remainder_is_not() -> None:
    """n = 3 * 2**62: a remainder alone would put half of all draws into the first third (SE 0.008)."""
    bits = Bits(KEY, domain="test")
    share = np.mean([bits.integer_below(3 * 2**62) < 2**62 for _ in range(4000)])
    assert abs(share - 1 / 3) < 0.03


def test_all_orders_are_equally_likely() -> None:
    """6 orders, 6000 draws: each 1000 with a standard deviation of 29."""
    bits = Bits(KEY, domain="test")
    counts = Counter(bits.permutation(3) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 130 for count in counts.values())


def test_uniforms_have_mean_one_half_and_variance_one_twelfth() -> None:
    bits = Bits(KEY, domain="test")
    uniforms = np.array([bits.uniform() for _ in range(10_000)])
    assert abs(uniforms.mean() - 0.5) < 0.012  # 4 standard errors
    assert abs(uniforms.var() - 1 / 12) < 0.003


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_certain_chances(probability: float, expected: bool) -> None:
    bits = Bits(KEY, domain="test")
    assert all(bits.chance(probability) is expected for _ in range(100))


def test_a_chance_takes_one_word_whatever_its_probability() -> None:
    streams = [Bits(KEY, domain="test") for _ in range(3)]
    for bits, probability in zip(streams, (0.0, 0.3, 1.0), strict=True):
        bits.chance(probability)
    assert len({bits.word() for bits in streams}) == 1


def test_words_do_not_repeat() -> None:
    bits = Bits(KEY, domain="test")
    assert len(set(islice(iter(bits.word, None), 1000))) == 1000


def test_a_value_that_is_json_already_gives_the_same_words() -> None:
    key = {"policy": {"b": [1.5, -0.0], "a": None}, "view_index": 7, "is": True, "seed": -3}
    encoded = {**key, "policy": Encoded(canonical_json(key["policy"]))}
    expected = hashlib.blake2b(canonical_json(key), digest_size=16, person=b"test").digest()
    words = np.random.Philox(key=int.from_bytes(expected, "little")).random_raw(40).tolist()
    for each in (key, encoded):
        bits = Bits(each, domain="test")
        assert [bits.word() for _ in words] == words
