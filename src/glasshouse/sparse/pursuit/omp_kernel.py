"""Orthogonal matching pursuit of one signal at a time, compiled: a pivoted partial Cholesky of the Gram.

With q_j the orthonormalised chosen atoms, row j of `basis` holds D^T q_j, the products of all atoms with q_j. It comes from
one row of the Gram and the earlier rows of the basis, and these rows hold the Cholesky factor too: L[j, i] = basis[i, chosen
j]. So a step needs no triangular solve, and the signal itself is read only where its residual must be exact.

What other files use is inlined: numba's cache looks at one file a function, and functions of one name compiled from two states
of the source must never meet in a process.
"""

from __future__ import annotations

import math

import numba
import numpy as np

SPAN = 1024  # atoms updated at once: what is written stays in the first cache
BLOCK = 128  # atoms of which the largest correlation is remembered
UNROLL = 4  # rows of the basis read for each write


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _block_update(basis, j, row, weights, scale, step, alpha, start, stop):
    """Fills basis[j, start:stop] and moves alpha[start:stop] along it."""
    new, left, width = basis[j, start:stop], alpha[start:stop], stop - start
    new[:] = row[start:stop]
    for i in range(0, j, UNROLL):  # views, not indices: only then are these loops vectorised
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        b0, b1, b2, b3 = (
            basis[i, start:stop],
            basis[i + 1, start:stop],
            basis[i + 2, start:stop],
            basis[i + 3, start:stop],
        )
        for n in range(width):
            new[n] -= w0 * b0[n] + w1 * b1[n] + w2 * b2[n] + w3 * b3[n]
    for n in range(width):
        new[n] *= scale
        left[n] -= step * new[n]


@numba.njit(inline="always", error_model="numpy")
def largest(bits, mask):
    """The largest magnitude among floats seen as integers: without their sign bit they keep their order.

    The maximum of integers is vectorised, that of floats is not: seven times faster.
    """
    top = mask * 0
    for n in range(len(bits)):
        magnitude = bits[n] & mask
        top = magnitude if magnitude > top else top
    return top


@numba.njit(inline="always", error_model="numpy")
def block_tops(bits, mask, tops):
    """The largest magnitude of each block."""
    for b in range((len(bits) + BLOCK - 1) // BLOCK):
        tops[b] = largest(bits[b * BLOCK : min((b + 1) * BLOCK, len(bits))], mask)


@numba.njit(inline="always", error_model="numpy")
def strongest(bits, mask, tops):
    """The first place of the largest magnitude, given the largest of each block."""
    b, top = 0, tops[0]
    for other in range(1, len(tops)):
        if tops[other] > top:
            b, top = other, tops[other]
    n = b * BLOCK
    while bits[n] & mask != top:
        n += 1
    return n


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _solve(factor, targets, used, values):
    """Solves factor^T values = targets by back substitution."""
    for i in range(used - 1, -1, -1):
        total = targets[i]
        for j in range(i + 1, used):
            total -= factor[j, i] * values[j]
        values[i] = total / factor[i, i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _residual(signal, atoms, chosen, values, used, left):
    """The squared norm of what `used` atoms leave of the signal, computed from the signal itself."""
    for c in range(len(signal)):
        left[c] = signal[c]
    for i in range(used):
        for c in range(len(signal)):
            left[c] -= values[i] * atoms[chosen[i], c]
    total = 0.0
    for c in range(len(signal)):
        total += left[c] * left[c]
    return total


@numba.njit(cache=True, nogil=True, error_model="numpy")
def omp_rows(x, atoms, gram, scores, bits, mask, k, tolerance, floor, indices, values):
    """Codes of the signals x [n, d] into `indices` and `values` [n, k]; `scores` [n, N] = x D^T is overwritten.

    `bits` is the memory of `scores` seen as integers of the same size, and `mask` all their bits but the sign.

    A signal ends at k atoms, at a residual of norm `tolerance`, or where no correlation reaches floor * norm of the signal.
    """
    size, width = atoms.shape
    stride = ((size + 15) // 16 | 1) * 16  # rows begin at cache lines, and not a power of two apart
    basis = np.zeros((k + UNROLL, stride), gram.dtype)
    weights = np.zeros(k + UNROLL, gram.dtype)
    factor = np.zeros((k, k))
    targets, solved, left = np.zeros(k), np.zeros(k), np.zeros(width)
    factors = np.zeros(2, gram.dtype)
    tops = np.zeros((size + BLOCK - 1) // BLOCK, bits.dtype)
    for s in range(len(x)):
        alpha, chosen = scores[s], indices[s]
        energy = 0.0
        for c in range(width):
            energy += float(x[s, c]) * float(x[s, c])
        least = floor * math.sqrt(energy)
        unsure = 1e3 * floor * energy  # beneath, energy - sum of squares has lost its digits
        remaining = energy
        used = 0
        block_tops(bits[s], mask, tops)
        while used < k and remaining > tolerance * tolerance:
            new = strongest(bits[s], mask, tops)
            if abs(alpha[new]) <= least:
                break
            weights[:] = 0
            rest = float(gram[new, new])
            for i in range(used):
                weights[i] = basis[i, new]
                factor[used, i] = basis[i, new]
                rest -= factor[used, i] * factor[used, i]
            if rest <= floor * gram[new, new]:  # the atom lies in the span of those chosen: it can explain nothing
                alpha[new] = 0
                block_tops(bits[s], mask, tops)
                continue
            scale = 1.0 / math.sqrt(rest)
            factor[used, used] = math.sqrt(rest)
            targets[used] = alpha[new] * scale
            remaining -= targets[used] * targets[used]
            chosen[used] = new
            factors[0], factors[1] = scale, targets[used]  # in the precision of the Gram
            used += 1
            if used < k:
                for start in range(0, size, SPAN):
                    stop = min(start + SPAN, size)
                    _block_update(basis, used - 1, gram[new], weights, factors[0], factors[1], alpha, start, stop)
                    block_tops(bits[s, start:stop], mask, tops[start // BLOCK :])
            if tolerance > 0 and remaining < unsure:
                _solve(factor, targets, used, solved)
                remaining = _residual(x[s], atoms, chosen, solved, used, left)
        _solve(factor, targets, used, solved)
        for i in range(used):
            values[s, i] = solved[i]
