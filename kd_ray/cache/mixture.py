"""Which source the next sample comes from: a fixed pattern in which every source keeps to its share all the time.

Sources have integer weights w with sum W. One period of the pattern is W picks, w of them each source's; it repeats.
Pick k of a source (from 0) may not come before slot floor(k W / w), nor after slot ceil((k + 1) W / w) - 1; of those
that may come, the one due first does. Such a pattern always exists (Tijdeman, "The chairman assignment problem",
1980), and earliest deadline first finds it (Baruah et al., "Proportionate progress", Algorithmica 1996). So after any
number of picks each source's count differs from its share by less than 1, and in any run of picks by less than 2.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import count, repeat

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.words import words

MAX_PERIOD = 65_536
PICKS_AT_A_TIME = 4_096
COUNTED_AT_A_TIME = 1 << 18  # rows whose arrays stay in the processor's cache


def integer_weights(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """Positive integers in the ratio of the positive `shares`.

    Exact where they can sum to at most MAX_PERIOD, else rounded to that sum by largest remainder: a share is then off
    by less than 1 / MAX_PERIOD, unless some are entitled to less than one pick; they get one, at the others' expense.
    """
    assert len(shares) <= MAX_PERIOD, len(shares)
    assert min(shares) > 0, shares
    scale = math.lcm(*(share.denominator for share in shares))
    exact = [int(share * scale) for share in shares]
    divisor = math.gcd(*exact)
    if sum(exact) // divisor <= MAX_PERIOD:
        return tuple(each // divisor for each in exact)
    return _rounded(shares)


def _rounded(shares: Sequence[Fraction]) -> tuple[int, ...]:
    weights = [0] * len(shares)
    while True:  # who is entitled to less than one pick gets one, which the others pay for
        rest = [i for i, weight in enumerate(weights) if weight == 0]
        picks_per_share = (MAX_PERIOD - (len(shares) - len(rest))) / sum(shares[i] for i in rest)
        small = [i for i in rest if shares[i] * picks_per_share < 1]
        if not small:
            break
        for i in small:
            weights[i] = 1
    for i in rest:
        weights[i] = math.floor(shares[i] * picks_per_share)
    by_remainder = sorted(rest, key=lambda i: weights[i] - shares[i] * picks_per_share)
    for i in by_remainder[: MAX_PERIOD - sum(weights)]:
        weights[i] += 1
    return tuple(weights)


@lru_cache(maxsize=16)
def pattern(weights: tuple[int, ...]) -> NDArray[np.uint16]:
    """One period of picks: the index of a source for each slot."""
    period = sum(weights)
    assert period <= MAX_PERIOD, period
    assert min(weights) > 0, weights
    picks = np.empty(period, np.uint16)
    taken = [0] * len(weights)
    to_come, due = [(0, source) for source in range(len(weights))], list[tuple[int, int]]()
    for slot in range(period):
        while to_come and to_come[0][0] <= slot:
            _, source = heapq.heappop(to_come)
            heapq.heappush(due, (-(-(taken[source] + 1) * period // weights[source]), source))
        _, source = heapq.heappop(due)
        picks[slot] = source
        taken[source] += 1
        if taken[source] < weights[source]:
            heapq.heappush(to_come, (taken[source] * period // weights[source], source))
    picks.setflags(write=False)
    return picks


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The picks of every lane: row n takes slots n L … n L + L - 1 of the pattern, dealt to the L lanes by a rotation.

    The rotation is pseudo-random in n, so that a lane is not tied to one source where L and the period have a common
    divisor; as it stays inside a row, any run of rows of all lanes together is a run of the pattern.
    """

    weights: tuple[int, ...]
    seed: int
    num_lanes: int

    def picks(self, lane: int, *, skip: int) -> Iterator[int]:
        """The sources of one lane's samples, endlessly, from row `skip` on."""
        if len(self.weights) == 1:
            yield from repeat(0)
        for start in count(skip, PICKS_AT_A_TIME):
            yield from self._sources(lane, start, start + PICKS_AT_A_TIME).tolist()

    def counts(self, lane: int, *, num_rows: int) -> list[int]:
        """How many of one lane's first `num_rows` samples come from each source."""
        if len(self.weights) == 1:
            return [num_rows]
        found = np.zeros(len(self.weights), np.int64)
        for start in range(0, num_rows, COUNTED_AT_A_TIME):
            sources = self._sources(lane, start, min(start + COUNTED_AT_A_TIME, num_rows))
            found += np.bincount(sources, minlength=len(self.weights))
        return [int(each) for each in found]

    def _sources(self, lane: int, start: int, stop: int) -> NDArray[np.uint16]:
        period, num_lanes = sum(self.weights), self.num_lanes
        high_bits = words(["rotation", self.seed], stop - start, first=start) >> np.uint64(32)
        rotations = ((high_bits * np.uint64(num_lanes)) >> np.uint64(32)).astype(np.int64)
        first_slots = (start * num_lanes % period + np.arange(stop - start) * num_lanes) % period
        beyond = np.resize(pattern(self.weights), period + num_lanes)
        sources: NDArray[np.uint16] = beyond[first_slots + (rotations + lane) % num_lanes]
        return sources
