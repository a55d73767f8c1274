"""Orthogonal matching pursuit of one signal at a time, compiled: a pivoted partial Cholesky of the Gram.

With q_j the orthonormalised chosen atoms, row j of `basis` holds D^T q_j, the products of all atoms with q_j. It comes from
one row of the Gram and the earlier rows of the basis, and these rows hold the Cholesky factor too: L[j, i] = basis[i, chosen
j]. So a step needs no triangular solve, and the signal itself is read only where its residual must be exact.
"""

from __future__ import annotations

import math

import numpy as np

from cloche.sparse.compiled import inlined, kernel

SPAN = 1024  # atoms updated at once: what is written stays in the first cache
LANES = (
    64  # atoms n, n + LANES, n + 2 LANES, ... have one largest correlation: found without leaving the registers' lanes
)
UNROLL = 8  # rows of the basis read for each write


@kernel(fastmath=True)
def _block_update(basis, j, row, weights, scale, step, alpha, start, stop):
    """Fills basis[j, start:stop] and moves alpha[start:stop] along it. The last row of the basis is zero.

    A loop is vectorised only where what it reads is views and does not overlap what it writes, so the places from row j on
    are filled by the row of zeros. (Overlapping rows made this function take three times as long.)
    """
    new, left, gram, width = basis[j, start:stop], alpha[start:stop], row[start:stop], stop - start
    none = len(basis) - 1
    for i in range(0, max(j, 1), UNROLL):
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        w4, w5, w6, w7 = weights[i + 4], weights[i + 5], weights[i + 6], weights[i + 7]
        b0 = basis[i if i < j else none, start:stop]
        b1 = basis[i + 1 if i + 1 < j else none, start:stop]
        b2 = basis[i + 2 if i + 2 < j else none, start:stop]
        b3 = basis[i + 3 if i + 3 < j else none, start:stop]
        b4 = basis[i + 4 if i + 4 < j else none, start:stop]
        b5 = basis[i + 5 if i + 5 < j else none, start:stop]
        b6 = basis[i + 6 if i + 6 < j else none, start:stop]
        b7 = basis[i + 7 if i + 7 < j else none, start:stop]
        if i == 0:
            for n in range(width):
                near = w0 * b0[n] + w1 * b1[n] + w2 * b2[n] + w3 * b3[n]
                new[n] = gram[n] - (near + w4 * b4[n] + w5 * b5[n] + w6 * b6[n] + w7 * b7[n])
        else:
            for n in range(width):
                near = w0 * b0[n] + w1 * b1[n] + w2 * b2[n] + w3 * b3[n]
                new[n] -= near + w4 * b4[n] + w5 * b5[n] + w6 * b6[n] + w7 * b7[n]
    for n in range(width):
        new[n] *= scale
        left[n] -= step * new[n]


@inlined
def largest(bits, mask):
    """The largest magnitude among floats seen as integers: without their sign bit they keep their order.

    The maximum of integers is vectorised, that of floats is not: seven times faster.
    """
    top = mask * 0
    for n in range(len(bits)):
        magnitude = bits[n] & mask
        top = magnitude if magnitude > top else top
    return top


@inlined
def strongest(bits, mask, tops):
    """A place of the largest magnitude, looking at all; `tops` [LANES] is overwritten."""
    tops[:] = 0
    whole = len(bits) // LANES * LANES
    for start in range(0, whole, LANES):
        part = bits[start : start + LANES]
        for n in range(LANES):
            magnitude = part[n] & mask
            tops[n] = magnitude if magnitude > tops[n] else tops[n]
    for n in range(len(bits) - whole):
        magnitude = bits[whole + n] & mask
        tops[n] = magnitude if magnitude > tops[n] else tops[n]
    top = largest(tops, mask)
    place = 0
    while tops[place] != top:
        place += 1
    while bits[place] & mask != top:
        place += LANES
    return place


@kernel()
def _solve(factor, targets, used, values):
    """Solves factor^T values = targets by back substitution."""
    for i in range(used - 1, -1, -1):
        total = targets[i]
        for j in range(i + 1, used):
            total -= factor[j, i] * values[j]
        values[i] = total / factor[i, i]


@kernel()
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


@kernel("OMP", seconds=3)
def omp_rows(
    x, atoms, gram, scores, bits, mask, k, tolerance, floor, dependence, unexplained, indices, values, doubtful
):
    """Codes of the signals x [n, d] into `indices` and `values` [n, k]; `scores` [n, N] = x D^T is overwritten.

    `bits` is the memory of `scores` seen as integers of the same size, and `mask` all their bits but the sign.

    A signal ends at k atoms, at a residual of norm tolerance[s], or where no correlation reaches floor * norm of the
    signal. Where the Gram's precision cannot tell what follows it ends too, with doubtful[s] true: at an atom nearer than
    `dependence` (squared) to the span of those chosen, or with more than `unexplained` of its energy left and correlations
    of rounding's size.
    """
    size, width = atoms.shape
    stride = ((size + 15) // 16 | 1) * 16  # rows begin at cache lines, and not a power of two apart
    basis = np.zeros((k + UNROLL, stride), gram.dtype)
    weights = np.zeros(k + UNROLL, gram.dtype)
    factor = np.zeros((k, k))
    targets, solved, left = np.zeros(k), np.zeros(k), np.zeros(width)
    factors = np.zeros(2, gram.dtype)
    tops = np.zeros(LANES, bits.dtype)
    for s in range(len(x)):
        alpha, chosen = scores[s], indices[s]
        energy = 0.0
        for c in range(width):
            energy += float(x[s, c]) * float(x[s, c])
        least = floor * math.sqrt(energy)
        unsure = 1e3 * floor * energy  # below, energy - sum of squares has lost its digits
        remaining, enough = energy, tolerance[s] * tolerance[s]
        used = 0
        while used < k and remaining > enough:
            new = strongest(bits[s], mask, tops)
            if abs(alpha[new]) <= least:
                doubtful[s] = alpha[new] != 0 and remaining > unexplained * energy
                break
            weights[:] = 0
            rest = float(gram[new, new])
            for i in range(used):
                weights[i] = basis[i, new]
                factor[used, i] = basis[i, new]
                rest -= factor[used, i] * factor[used, i]
            if rest <= dependence * gram[new, new]:
                doubtful[s] = True
                break
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
            if enough > 0 and remaining < unsure:
                _solve(factor, targets, used, solved)
                remaining = _residual(x[s], atoms, chosen, solved, used, left)
        _solve(factor, targets, used, solved)
        for i in range(used):
            values[s, i] = solved[i]
