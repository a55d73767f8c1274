"""Non-negative orthogonal matching pursuit of one signal at a time, compiled."""

from __future__ import annotations

import math

import numpy as np

from cloche.sparse.compiled import kernel
from cloche.sparse.pursuit.kernels.descent_kernel import solve_positive, subtract_rows


@kernel()
def _fit(gram, q, chosen, coefs, used, dependence):
    """Least squares over the chosen atoms without negative coefficients (Lawson & Hanson 1974); returns how many stay, or -1.

    `coefs` must be feasible on entry. -1 where an atom lies nearer than `dependence` (squared) to the span of the others.
    """
    while used > 0:
        matrix, target = np.empty((used, used)), np.empty(used)
        for i in range(used):
            target[i] = q[chosen[i]]
            for j in range(i + 1):
                matrix[i, j] = gram[chosen[i], chosen[j]]
        if not solve_positive(matrix, target, used, dependence):
            return -1
        share, blocking = 1.0, -1  # how much of the way to the unconstrained solution can be gone, and who stops it
        for i in range(used):
            if target[i] <= 0:
                reach = coefs[i] / (coefs[i] - target[i]) if coefs[i] > 0 else 0.0
                if blocking < 0 or reach < share:
                    share, blocking = reach, i
        kept = 0
        for i in range(used):
            if i != blocking:
                chosen[kept], coefs[kept] = chosen[i], coefs[i] + share * (target[i] - coefs[i])
                kept += 1
        if blocking < 0:
            return used
        used = kept
    return 0


@kernel()
def _left(signal, atoms, chosen, coefs, used):
    left = signal.astype(np.float64)
    for i in range(used):
        for c in range(len(left)):
            left[c] -= coefs[i] * atoms[chosen[i], c]
    return np.sum(left * left)


@kernel("non-negative OMP", seconds=4)
def nonnegative_rows(x, atoms, gram, scores, k, tolerance, floor, dependence, unexplained, doubtful):
    """Overwrites `scores` [n, N] = x D^T with the coefficients. Signals end, or are doubtful, by the rules of `omp_rows`, on
    positive correlations."""
    size = gram.shape[0]
    q, alpha, barred = np.empty(size, gram.dtype), np.empty(size, gram.dtype), np.zeros(size, np.bool_)
    chosen, before, coefs = np.zeros(k + 1, np.int64), np.zeros(k + 1, np.int64), np.zeros(k + 1)
    for s in range(len(x)):
        q[:] = scores[s]
        barred[:] = False
        enough = tolerance[s] * tolerance[s]
        energy = 0.0
        for c in range(x.shape[1]):
            energy += float(x[s, c]) * float(x[s, c])
        remaining, least, used = energy, floor * math.sqrt(energy), 0
        for _ in range(3 * k):  # atoms may leave again, so the steps are bounded apart from the atoms
            if used >= k or remaining <= enough:
                break
            alpha[:] = q
            subtract_rows(alpha, gram, chosen, coefs.astype(gram.dtype), used)
            new = -1
            for n in range(size):
                if alpha[n] > least and not barred[n] and (new < 0 or alpha[n] > alpha[new]):
                    new = n
            if new < 0:
                if unexplained < 1 and _left(x[s], atoms, chosen, coefs, used) > unexplained * energy:
                    for n in range(size):
                        doubtful[s] = doubtful[s] or (alpha[n] > 0 and not barred[n])
                break
            barred[new] = True
            before[:used] = chosen[:used]
            chosen[used], coefs[used] = new, 0.0
            stayed = _fit(gram, q, chosen, coefs, used + 1, dependence)
            if stayed < 0:
                doubtful[s] = True
                break
            barred[before[:used]] = False
            used = stayed
            barred[chosen[:used]] = True
            if enough > 0:
                remaining = _left(x[s], atoms, chosen, coefs, used)
        scores[s, :] = 0
        for i in range(used):
            scores[s, chosen[i]] = coefs[i]
