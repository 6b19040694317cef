"""Random numbers that are the same for ever: a stream of uniforms decided by a key, and by nothing else.

NumPy promises the raw 64-bit words of Philox across versions and machines, but not what `Generator` makes of them
(NEP 19), so the map from words to numbers is ours. It uses only operations that IEEE 754 rounds exactly.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from decimal import Context, Decimal
from typing import Any, cast

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from kd_ray.storage.base import canonical_json

WORDS_PER_CALL = 16  # a crop, a flip and a jitter take 13 words, more where a crop is tried again
WORD_VALUES = 2**64
LOG_DIGITS = 20


class Encoded(bytes):
    """The canonical JSON of a value, made before."""


class Bits:
    """Uniforms in the order asked for, from Philox 4x64 keyed by BLAKE2b-128 of the canonical JSON of `key`.

    `domain` (at most 16 bytes; BLAKE2's personalisation) keeps two uses of one key apart.
    """

    __slots__ = ("_words",)

    def __init__(self, key: Mapping[str, Any], *, domain: str) -> None:
        digest = hashlib.blake2b(_json_of(key), digest_size=16, person=domain.encode()).digest()
        self._words = _philox_words(_Key(digest))

    def word(self) -> int:
        """The next 64 raw bits."""
        return next(self._words)

    def uniform(self) -> float:
        """A multiple of 2**-53 in [0, 1): the upper 53 bits of one word."""
        return (self.word() >> 11) * 2.0**-53

    def uniform_in(self, low: float, high: float) -> float:
        """Uniform in [low, high]; `high` itself only by rounding."""
        return low + (high - low) * self.uniform()

    def integer_below(self, n: int) -> int:
        """Uniform in 0 … n - 1 without bias: words of the last, incomplete run of n values are drawn again.

        Of 2**64 words fewer than n are drawn again, so for small n it is one word in practice.
        """
        assert 0 < n <= WORD_VALUES, n
        end_of_whole_runs = WORD_VALUES - WORD_VALUES % n
        while (word := self.word()) >= end_of_whole_runs:
            pass
        return word % n

    def permutation(self, n: int) -> tuple[int, ...]:
        """A uniform order of 0 … n - 1 (Fisher-Yates, from the last place down)."""
        order = list(range(n))
        for place in range(n - 1, 0, -1):
            other = self.integer_below(place + 1)
            order[place], order[other] = order[other], order[place]
        return tuple(order)

    def chance(self, probability: float) -> bool:
        """True with `probability`; always takes one word, also for 0 and 1."""
        return self.uniform() < probability


def log_uniform(bits: Bits, low: float, high: float) -> float:
    """exp of a uniform in [ln low, ln high], in decimal arithmetic (8 µs, and 24 more for the first of a range).

    `math.exp` may differ in the last bit between C libraries; decimal's ln and exp are correctly rounded everywhere.
    """
    context = Context(prec=LOG_DIGITS)
    log_low, range_of_logs = _log_range(low, high)
    step = context.multiply(range_of_logs, Decimal(bits.uniform()))
    return float(context.exp(context.add(log_low, step)))


@functools.lru_cache(maxsize=256)  # a recipe has a handful of ranges
def _log_range(low: float, high: float) -> tuple[Decimal, Decimal]:
    """ln low, and ln high - ln low."""
    context = Context(prec=LOG_DIGITS)
    log_low, log_high = context.ln(Decimal(low)), context.ln(Decimal(high))
    return log_low, context.subtract(log_high, log_low)


def standard_normal(bits: Bits) -> float:
    """A draw from N(0, 1) by the polar method (Marsaglia and Bray 1964), with ln and square root in decimal.

    Of the two variables that the method gives the second is thrown away, so that no draw depends on the one before.
    """
    while True:
        x, y = bits.uniform_in(-1.0, 1.0), bits.uniform_in(-1.0, 1.0)
        square = x * x + y * y
        if 0.0 < square < 1.0:
            context = Context(prec=20)
            length = Decimal(square)
            ratio = context.divide(context.multiply(Decimal(-2), context.ln(length)), length)
            return float(context.multiply(Decimal(x), context.sqrt(ratio)))


def _json_of(key: Mapping[str, Any]) -> bytes:
    """The canonical JSON of `key`, whose names are plain words; whole numbers are written in a fifth of json's time."""
    parts = []
    for name in sorted(key):
        value = key[name]
        if not isinstance(value, Encoded):
            value = b"%d" % value if type(value) is int else canonical_json(value)
        parts.append(b'"%b":%b' % (name.encode(), value))
    return b"{%b}" % b",".join(parts)


class _Key(ISeedSequence):
    """128 bits for `Philox`; given as its `key`, it would ask the system for entropy first (6 of 9 us) and drop it."""

    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest, dtype="<u8")

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        assert (n_words, np.dtype(dtype)) == (2, np.uint64), (n_words, dtype)
        return self._words.astype(np.uint64)


def _philox_words(key: _Key) -> Iterator[int]:
    philox = np.random.Philox(cast(np.random.SeedSequence, key))  # NumPy takes any ISeedSequence
    while True:
        yield from philox.random_raw(WORDS_PER_CALL).tolist()
