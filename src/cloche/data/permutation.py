"""A seeded permutation of 0 .. n-1 in constant memory: any element is computed when it is needed.

A balanced Feistel network over the next even number of bits, walked until it lands below n (Black & Rogaway 2002, "Ciphers with
arbitrary finite domains"); its round function is SplitMix64's finaliser (Steele, Lea & Flood 2014). Integer arithmetic alone,
so it is the same on every machine and with every version of numpy.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def mix(*values: int) -> int:
    """A 64-bit hash of integers, the same on every machine: a seed for each purpose and step.

    >>> from cloche.data import mix
    >>> mix(0, 5) == mix(0, 5), mix(0, 5) == mix(0, 6)
    (True, False)
    """
    state = np.zeros(1, dtype=np.uint64)
    for value in values:
        state = scrambled(state ^ np.uint64(value & 0xFFFFFFFFFFFFFFFF))
    return int(state[0])


def permuted(indices: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The images of indices under the permutation of 0 .. n-1 given by `seed`; int64, of the same shape."""
    bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    keys = [np.uint64(mix(seed, i)) for i in range(ROUNDS)]
    out = np.array(indices, dtype=np.uint64, ndmin=1)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        out[outside] = _feistel(out[outside], bits, keys)
        outside = out >= n
    return out.astype(np.int64).reshape(np.shape(indices))


def _feistel(values: np.ndarray, bits: np.uint64, keys: list[np.uint64]) -> np.ndarray:
    mask = (np.uint64(1) << bits) - np.uint64(1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (scrambled(right ^ key) & mask)
    return (left << bits) | right


def scrambled(z: np.ndarray) -> np.ndarray:
    """A hash of each number, uint64: one to one."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
