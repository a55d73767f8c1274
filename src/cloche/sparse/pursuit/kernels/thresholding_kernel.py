"""Iterative hard thresholding and hard-thresholding pursuit of one signal at a time, compiled over the Gram."""

from __future__ import annotations

import math

import numpy as np

from cloche.sparse.compiled import kernel
from cloche.sparse.pursuit.kernels.descent_kernel import solve_positive, subtract_rows

SHRINK = 0.01  # c of Blumensath & Davies 2010: how far below its bound a step must stay


@kernel()
def _along(gram, chosen, coefs, used):
    """a^T G a: the squared norm of the signal that these coefficients stand for."""
    total = 0.0
    for i in range(used):
        for j in range(used):
            total += coefs[i] * coefs[j] * gram[chosen[i], chosen[j]]
    return total


@kernel()
def _keep(values, k, chosen, coefs):
    """The k largest magnitudes of `values` [N], in the order of their atoms; returns how many are not zero."""
    size = np.abs(values)
    bar = np.partition(size, len(values) - k)[len(values) - k]
    used = 0
    for strict in (True, False):  # atoms above the bar first, then as many at it as fit
        for n in range(len(values)):
            if used < k and size[n] > 0 and (size[n] > bar if strict else size[n] == bar):
                chosen[used] = n
                used += 1
    order = np.sort(chosen[:used])
    for i in range(used):
        chosen[i], coefs[i] = order[i], values[order[i]]
    return used


@kernel()
def _change(gram, chosen, coefs, used, others, other_amounts, other_used):
    """(squared norm of the difference of two codes, squared norm of the difference of their signals)."""
    both, steps = np.empty(used + other_used, np.int64), np.empty(used + other_used)
    total = 0
    for i in range(used):
        both[total], steps[total] = chosen[i], coefs[i]
        total += 1
    for i in range(other_used):
        place = -1
        for j in range(used):
            if chosen[j] == others[i]:
                place = j
        if place < 0:
            both[total], steps[total] = others[i], -other_amounts[i]
            total += 1
        else:
            steps[place] -= other_amounts[i]
    return np.sum(steps[:total] * steps[:total]), _along(gram, both, steps, total)


@kernel()
def _refit(gram, q, chosen, coefs, used, dependence):
    """Puts the least-squares coefficients on the chosen atoms; False, and nothing put, where those are too nearly dependent."""
    matrix, target = np.empty((used, used)), np.empty(used)
    for i in range(used):
        target[i] = q[chosen[i]]
        for j in range(i + 1):
            matrix[i, j] = gram[chosen[i], chosen[j]]
    if not solve_positive(matrix, target, used, dependence):
        return False
    coefs[:used] = target
    return True


@kernel()
def _product(q, chosen, coefs, used):
    """a^T q: for least-squares coefficients, the energy they explain."""
    total = 0.0
    for i in range(used):
        total += coefs[i] * q[chosen[i]]
    return total


@kernel()
def _move(trial, left, step, chosen, coefs, used):
    """trial = a + step * left."""
    for n in range(len(trial)):
        trial[n] = step * left[n]
    for i in range(used):
        trial[chosen[i]] += coefs[i]


@kernel("hard thresholding", seconds=7)
def thresholding_rows(gram, scores, k, steps, tolerance, refit, dependence, doubtful):
    """Overwrites `scores` [n, N] = x D^T with the coefficients; `refit` makes it hard-thresholding pursuit.

    A signal whose next step leans on atoms of squared distance `dependence` or less ends there, with doubtful[s] true.
    """
    size = gram.shape[0]
    q, left, trial = np.empty(size, gram.dtype), np.empty(size, gram.dtype), np.empty(size, gram.dtype)
    chosen, coefs = np.zeros(k, np.int64), np.zeros(k)
    others, other_amounts = np.zeros(k, np.int64), np.zeros(k)
    for s in range(len(scores)):
        q[:] = scores[s]
        used = _keep(q, k, chosen, coefs)
        coefs[:] = 0
        for _ in range(steps if used > 0 else 0):
            left[:] = q
            subtract_rows(left, gram, chosen, coefs.astype(gram.dtype), used)
            if refit:  # on its own atoms the gradient is zero, so the step is measured along the strongest of all
                count = _keep(left, k, others, other_amounts)
            else:
                count = used
                others[:used] = chosen[:used]
                for i in range(used):
                    other_amounts[i] = left[chosen[i]]
            along = _along(gram, others, other_amounts, count)
            steep = np.sum(other_amounts[:count] * other_amounts[:count])
            if along <= dependence * steep:
                doubtful[s] = steep > 0
                break
            step = steep / along
            while True:
                _move(trial, left, step, chosen, coefs, used)
                other_used = _keep(trial, k, others, other_amounts)
                same = np.array_equal(chosen[:used], others[:other_used])
                if same or refit:
                    break
                moved, signal = _change(gram, chosen, coefs, used, others, other_amounts, other_used)
                if step * signal <= (1 - SHRINK) * moved:
                    break
                step /= 2 * (1 - SHRINK)
            if refit:
                if not _refit(gram, q, others, other_amounts, other_used, dependence):
                    doubtful[s] = True
                    break
                if _product(q, others, other_amounts, other_used) <= _product(q, chosen, coefs, used):
                    break  # the new atoms explain no more
            moved, _ = _change(gram, chosen, coefs, used, others, other_amounts, other_used)
            largest = math.sqrt(np.sum(other_amounts[:other_used] * other_amounts[:other_used]))
            used = other_used
            chosen[:used], coefs[:used] = others[:used], other_amounts[:used]
            if same and not refit and math.sqrt(moved) <= tolerance * largest:
                break
        scores[s, :] = 0
        for i in range(used):
            scores[s, chosen[i]] = coefs[i]
