"""Orthogonal matrices that give every channel an equal share of the variance: Hadamard's where one is known.

A Hadamard matrix has entries 1 and -1 and orthogonal rows. Constructions: Sylvester (1867), Paley (1933) over the
integers modulo a prime, Kronecker products of these. Every function here gives the same matrix on every machine.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int8]
Doubles = NDArray[np.float64]

_SYLVESTER = np.array([[1, 1], [1, -1]], np.int8)


def spreading(variances_D: Doubles) -> Doubles:
    """Orthogonal H [D, D] for which every entry of the diagonal of H diag(`variances_D`) Hᵀ is their mean.

    Hadamard's over √D does so whatever the variances. Where none of that width is known, rotations of two channels at
    a time do: such an H exists for every D (Horn 1954), but depends on the variances.
    """
    signs = hadamard(len(variances_D))
    if signs is not None:
        return signs / math.sqrt(len(variances_D))
    return _by_rotations(variances_D)


@lru_cache(maxsize=16)
def hadamard(order: int) -> Signs | None:
    """The Hadamard matrix [order, order] that the constructions give, None where they give none.

    They give the usual widths of networks, among them 192, 320, 384, 512, 768, 1024, 1152, 1280, 1408, 1536 and 2048.
    """
    if order in (1, 2):
        return _SYLVESTER[:order, :order]
    if order < 1 or order % 4:
        return None
    found = _paley(order)
    if found is not None:
        return found
    for factor in (each for each in range(2, math.isqrt(order) + 1) if order % each == 0):
        first, second = hadamard(factor), hadamard(order // factor)
        if first is not None and second is not None:
            return np.kron(first, second)
    return None


def _paley(order: int) -> Signs | None:
    """From a prime q: the first construction for order = q + 1, q = 3 mod 4; the second for 2 (q + 1), q = 1 mod 4."""
    if _is_prime(order - 1):  # and so 3 mod 4, as 4 divides the order
        return _bordered(order - 1, column=-1) + np.eye(order, dtype=np.int8)
    half = order // 2 - 1
    if _is_prime(half) and half % 4 == 1:
        conference = _bordered(half, column=1)
        diagonal = np.eye(half + 1, dtype=np.int8)
        return np.kron(conference, _SYLVESTER) + np.kron(diagonal, np.array([[1, -1], [-1, -1]], np.int8))
    return None


def _bordered(prime: int, *, column: int) -> Signs:
    """Jacobsthal's matrix, the quadratic character of i - j, below a row of 1 and beside a column of `column`."""
    character = np.full(prime, -1, np.int8)
    character[np.arange(1, prime, dtype=np.int64) ** 2 % prime] = 1
    character[0] = 0
    places = np.arange(prime)
    bordered = np.zeros((prime + 1, prime + 1), np.int8)
    bordered[0, 1:], bordered[1:, 0] = 1, column
    bordered[1:, 1:] = character[(places[:, None] - places) % prime]
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % each for each in range(2, math.isqrt(number) + 1))


def _by_rotations(variances_D: Doubles) -> Doubles:
    """Each rotation takes the least and the greatest of what is left and gives the first of them the mean.

    What is left stays uncorrelated, so that the angle follows from the two variances alone (Chan and Li 1983).
    """
    left_D = variances_D.astype(np.float64)
    mean = left_D.mean()
    spread_DD = np.eye(len(left_D))
    is_left_D = np.ones(len(left_D), bool)
    for _ in range(len(left_D) - 1):
        low = int(np.where(is_left_D, left_D, np.inf).argmin())
        high = int(np.where(is_left_D, left_D, -np.inf).argmax())
        if not left_D[low] < mean < left_D[high]:  # equal but for rounding
            break
        sine_squared = (mean - left_D[low]) / (left_D[high] - left_D[low])
        sine, cosine = math.sqrt(sine_squared), math.sqrt(1.0 - sine_squared)
        low_row, high_row = spread_DD[low].copy(), spread_DD[high].copy()
        spread_DD[low] = cosine * low_row + sine * high_row
        spread_DD[high] = cosine * high_row - sine * low_row
        left_D[high] += left_D[low] - mean
        is_left_D[low] = False
    return spread_DD
