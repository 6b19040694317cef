"""Count, mean and scatter matrix of the tokens of an output, mergeable in any order; and which tokens are taken.

Shape letters: N samples, T tokens of a view, t taken tokens, D channels, X anything.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

TOKENS_A_VIEW = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SecondMoments:
    """`scatter_DD` is the sum over tokens x of (x - mean)(x - mean)ᵀ, in float64 like all of it."""

    count: int
    mean_D: Doubles
    scatter_DD: Doubles

    @staticmethod
    def of(tokens_XD: NDArray[Any]) -> "SecondMoments":
        """Of tokens [X, D], in two passes."""
        exact_XD = tokens_XD.astype(np.float64)
        mean_D = exact_XD.mean(axis=0)
        centred_XD = exact_XD - mean_D
        return SecondMoments(count=len(exact_XD), mean_D=mean_D, scatter_DD=centred_XD.T @ centred_XD)

    def merged(self, other: "SecondMoments") -> "SecondMoments":
        """Of both populations together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        delta_D = other.mean_D - self.mean_D
        between = self.count * other.count / count
        return SecondMoments(
            count=count,
            mean_D=self.mean_D + delta_D * (other.count / count),
            scatter_DD=self.scatter_DD + other.scatter_DD + np.outer(delta_D * between, delta_D),
        )

    def covariance(self) -> Doubles:
        """[D, D], of the population: divided by `count`."""
        return self.scatter_DD / self.count


def token_positions(sample_ids: NDArray[np.uint64], view_index: int, *, num_tokens: int) -> Ints:
    """[N, t]: which of the `num_tokens` tokens of one view of each sample count: at most 8, ascending, all different.

    Decided by sample and view alone: the eight little-endian words of BLAKE2b-512 of both (8 and 4 bytes,
    little-endian) are, modulo T, T - 1, …, the ranks of the positions among those that are not yet taken.
    """
    if num_tokens <= TOKENS_A_VIEW:
        return np.broadcast_to(np.arange(num_tokens), (len(sample_ids), num_tokens))
    view = view_index.to_bytes(4, "little")
    digests = (hashlib.blake2b(int(each).to_bytes(8, "little") + view).digest() for each in sample_ids)
    words_Nt = np.frombuffer(b"".join(digests), "<u8").reshape(-1, TOKENS_A_VIEW)
    left_t = np.arange(num_tokens, num_tokens - TOKENS_A_VIEW, -1)
    taken_Nt = (words_Nt % left_t.astype(np.uint64)).astype(np.int64)
    for place in range(1, TOKENS_A_VIEW):
        for before_N in np.sort(taken_Nt[:, :place], axis=1).T:
            taken_Nt[:, place] += taken_Nt[:, place] >= before_N
    return np.sort(taken_Nt, axis=1)
