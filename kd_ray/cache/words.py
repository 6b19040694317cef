"""Keyed pseudo-random words for orders: the same on every machine and NumPy version, read from any place on."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kd_ray.storage.base import canonical_json

Ints = NDArray[np.int64]

WORDS_PER_COUNT = 4  # Philox 4x64 gives four words for one value of its counter


def words(key: Sequence[str | int], count: int, *, first: int = 0) -> NDArray[np.uint64]:
    """Raw 64-bit Philox words, `count` from number `first` on, keyed by BLAKE2b-128 of the canonical JSON of `key`."""
    digest = hashlib.blake2b(canonical_json(list(key)), digest_size=16).digest()
    counter, dropped = divmod(first, WORDS_PER_COUNT)
    philox = np.random.Philox(key=int.from_bytes(digest, "little"), counter=counter)
    return philox.random_raw(dropped + count)[dropped:]


def permutation(key: Sequence[str | int], length: int) -> Ints:
    """An order of 0 … length - 1 that `key` decides."""
    return np.argsort(words(key, length), kind="stable").astype(np.int64)
