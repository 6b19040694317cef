"""How often each sample of a source comes up in each turn, where samples have weights.

A sample with rate r and phase p, 0 <= p < 1, has come floor(e r + p) times before turn e: over any number of turns
within 1 of what its weight asks for, and with no state. Rates and phases are multiples of 2**-32, so this is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_ray.cache.words import Ints, words

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recurrence:
    """Rates and phases [N] of a source's samples, in multiples of 2**-32."""

    rates: Ints
    phases: Ints

    def before(self, turn: int, *, samples: slice = slice(None)) -> Ints:
        """How often each of `samples` has come before `turn`."""
        rates, phases = self.rates[samples], self.phases[samples]
        # whole and fractional parts apart: the product of a large rate and many turns would overflow
        return turn * (rates >> FRACTION_BITS) + ((turn * (rates & (ONE - 1)) + phases) >> FRACTION_BITS)

    def counts(self, turn: int, *, samples: slice = slice(None)) -> Ints:
        """How often each of `samples` comes in `turn`."""
        return self.before(turn + 1, samples=samples) - self.before(turn, samples=samples)


def recurrence(groups: Ints, weights: Sequence[float], *, seed: int, source: str) -> Recurrence:
    """The recurrence of samples of which `groups` [N] says to which group each belongs, and `weights` what one weighs.

    Rates are proportional to the weights, 1 on average. The phases of a group of c samples are (j + u) / c for j = 0 …
    c - 1, in a pseudo-random order, with one u in [0, 1): so the group as a whole comes floor(e c r + u) times before
    turn e (Hermite's identity), within 1 of its due too.
    """
    sizes = np.bincount(groups, minlength=len(weights))
    total = math.fsum(int(size) * weight for size, weight in zip(sizes, weights, strict=True))
    rates = np.array([max(round(len(groups) * weight / total * ONE), 1) for weight in weights], np.int64)
    keyed = words(["phase", seed, source], len(groups) + len(weights))
    shuffled = np.lexsort((keyed[: len(groups)], groups))
    ranks = np.empty(len(groups), np.int64)
    ranks[shuffled] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    offsets = (keyed[len(groups) :] >> np.uint64(64 - FRACTION_BITS)).astype(np.int64)
    return Recurrence(rates=rates[groups], phases=(ranks * ONE + offsets[groups]) // sizes[groups])
