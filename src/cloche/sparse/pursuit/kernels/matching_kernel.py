"""Matching pursuit of one signal at a time, compiled: a step is one row of the Gram."""

from __future__ import annotations

import math

import numpy as np

from cloche.sparse.compiled import kernel
from cloche.sparse.pursuit.kernels.omp_kernel import LANES, strongest


@kernel(fastmath=True)
def _move(alpha, row, amount):
    for n in range(len(alpha)):
        alpha[n] -= amount * row[n]


@kernel()
def residual_energy(signal, atoms, coefs):
    """The squared norm of what the coefficients [N] leave of the signal, in double precision."""
    left = signal.astype(np.float64)
    for n in range(len(coefs)):
        if coefs[n] != 0:
            for c in range(len(left)):
                left[c] -= coefs[n] * atoms[n, c]
    total = 0.0
    for c in range(len(left)):
        total += left[c] * left[c]
    return total


@kernel("matching pursuit", seconds=1)
def matching_rows(x, atoms, gram, scores, bits, mask, steps, tolerance, floor, unexplained, doubtful):
    """Overwrites `scores` [n, N] = x D^T with the coefficients; `bits` and `mask` as in `omp_rows`.

    A signal ends after `steps`, at a residual of norm tolerance[s], or where no correlation reaches floor * norm of the signal;
    doubtful[s] is true where it ends so with more than `unexplained` of its energy left.
    """
    size = gram.shape[0]
    tops = np.zeros(LANES, bits.dtype)
    coefs = np.zeros(size)
    for s in range(len(x)):
        alpha = scores[s]
        coefs[:] = 0
        energy = 0.0
        for c in range(x.shape[1]):
            energy += float(x[s, c]) * float(x[s, c])
        enough = tolerance[s] * tolerance[s]
        remaining, least, unsure = energy, floor * math.sqrt(energy), 1e3 * floor * energy
        for _ in range(steps):
            if remaining <= enough:
                break
            new = strongest(bits[s], mask, tops)
            if abs(alpha[new]) <= least:
                doubtful[s] = alpha[new] != 0 and remaining > unexplained * energy
                break
            amount = alpha[new] / gram[new, new]
            coefs[new] += amount
            remaining -= float(amount) * float(alpha[new])
            _move(alpha, gram[new], amount)
            if enough > 0 and remaining < unsure:
                remaining = residual_energy(x[s], atoms, coefs)
        for n in range(size):
            alpha[n] = coefs[n]
