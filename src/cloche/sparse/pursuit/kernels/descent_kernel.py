"""Coordinate descent for the lasso and the elastic net over the Gram, compiled; stopped by its duality gap.

Minimises 1/2 |x - D a|^2 + penalty |a|_1 + ridge/2 |a|^2. Descent runs over a small working set of atoms (those in use and
the worst violators: Johnson & Guestrin 2015); once the signs have settled, the coefficients come from one linear system;
all atoms are looked at only to measure the gap and to find the next violators.
"""

from __future__ import annotations

import math

import numpy as np

from cloche.sparse.compiled import inlined, kernel

EPOCHS = 200  # passes over a working set before all atoms are looked at again
SETTLE = 3  # passes between attempts to solve for the coefficients directly
GROW = 16  # violators that join a working set at once, or as many as it holds


@inlined
def subtract_rows(row, gram, chosen, coefs, used):
    """row -= the `used` chosen rows of the Gram times their coefficients (an array of the Gram's precision)."""
    width = len(row)
    whole = used // 4 * 4
    for i in range(0, whole, 4):
        w0, w1, w2, w3 = coefs[i], coefs[i + 1], coefs[i + 2], coefs[i + 3]
        g0, g1, g2, g3 = gram[chosen[i]], gram[chosen[i + 1]], gram[chosen[i + 2]], gram[chosen[i + 3]]
        for n in range(width):
            row[n] -= w0 * g0[n] + w1 * g1[n] + w2 * g2[n] + w3 * g3[n]
    for i in range(whole, used):
        w0, g0 = coefs[i], gram[chosen[i]]
        for n in range(width):
            row[n] -= w0 * g0[n]


@inlined
def solve_positive(matrix, target, used, least):
    """Solves matrix a = target in place for the leading `used` rows by Cholesky; False at a squared pivot <= `least`."""
    for j in range(used):
        for i in range(j + 1):
            total = matrix[j, i]
            for m in range(i):
                total -= matrix[j, m] * matrix[i, m]
            if i < j:
                matrix[j, i] = total / matrix[i, i]
            elif total <= least:
                return False
            else:
                matrix[j, j] = math.sqrt(total)
    for j in range(used):
        for m in range(j):
            target[j] -= matrix[j, m] * target[m]
        target[j] /= matrix[j, j]
    for j in range(used - 1, -1, -1):
        for m in range(j + 1, used):
            target[j] -= matrix[m, j] * target[m]
        target[j] /= matrix[j, j]
    return True


@kernel()
def _solve_directly(sub, q, coefs, held, penalty):
    """Given the signs, the coefficients solve a linear system; taken over only where they keep those signs."""
    used = 0
    support = np.empty(held, np.int64)
    for i in range(held):
        if coefs[i] != 0:
            support[used] = i
            used += 1
    matrix, target = np.empty((used, used)), np.empty(used)
    for i in range(used):
        target[i] = q[support[i]] - math.copysign(penalty, coefs[support[i]])
        for j in range(i + 1):
            matrix[i, j] = sub[support[i], support[j]]
    if not solve_positive(matrix, target, used, 1e-10):
        return False
    for i in range(used):
        if target[i] * coefs[support[i]] <= 0:
            return False
    for i in range(used):
        coefs[support[i]] = target[i]
    return True


@kernel()
def _kept_out(sub, q, coefs, held, penalty, nonnegative, slack):
    """Do all unused atoms of the working set stay unused?"""
    for i in range(held):
        if coefs[i] == 0:
            c = q[i]
            for j in range(held):
                c -= sub[i, j] * coefs[j]
            if (c if nonnegative else abs(c)) > penalty + slack:
                return False
    return True


@kernel(fastmath=True)
def _descend(sub, q, coefs, held, penalty, nonnegative, slack):
    """Coordinate descent over the working set until no coefficient moves by more than `slack`, or solved directly."""
    c = q[:held].copy()  # what is left of each correlation
    for i in range(held):
        if coefs[i] != 0:
            row = sub[i]
            for j in range(held):
                c[j] -= coefs[i] * row[j]
    for epoch in range(EPOCHS):
        moved, turned = 0.0, False
        for i in range(held):
            before, scale = coefs[i], sub[i, i]
            pull = c[i] + scale * before
            after = 0.0
            if pull > penalty:
                after = (pull - penalty) / scale
            elif pull < -penalty and not nonnegative:
                after = (pull + penalty) / scale
            change = after - before
            if change != 0:
                turned = turned or (before == 0) or after * before <= 0
                moved = max(moved, abs(change))
                coefs[i] = after
                row = sub[i]
                for j in range(held):
                    c[j] -= change * row[j]
        if moved <= slack:
            return
        if (
            (not turned or epoch % SETTLE == SETTLE - 1)
            and _solve_directly(sub, q, coefs, held, penalty)
            and _kept_out(sub, q, coefs, held, penalty, nonnegative, slack)
        ):
            return
        if not turned or epoch % SETTLE == SETTLE - 1:
            for j in range(held):
                c[j] = q[j]
            for i in range(held):
                if coefs[i] != 0:
                    row = sub[i]
                    for j in range(held):
                        c[j] -= coefs[i] * row[j]


@kernel()
def duality_gap(energy, fitted, used_up, total, penalty, top):
    """The gap of coefficients a, with c what they leave of the correlations q.

    `energy` is |x|^2, `fitted` a . q, `used_up` a . c, `total` |a|_1 and `top` the largest |c| (the largest c where
    coefficients may not be negative). The dual point is the residual, scaled to be feasible and otherwise best.
    """
    residual = max(energy - fitted - used_up, 0.0)
    along = energy - fitted
    if residual == 0:
        return penalty * total
    scale = max(along / residual, 0.0)  # a residual against the signal, scaled below zero, may be infeasible
    if top > 0:
        scale = min(scale, penalty / top)
    return 0.5 * residual + penalty * total - scale * along + 0.5 * scale * scale * residual


@kernel("lasso", seconds=5)
def lasso_rows(x, gram, scores, penalties, ridge, nonnegative, gap, rounds, gaps):
    """Overwrites `scores` [n, N] = x D^T with the coefficients at `penalties` [n], `gaps` [n] with duality gaps over |x|^2."""
    size = gram.shape[0]
    left, q_all = np.empty(size, gram.dtype), np.empty(size, gram.dtype)
    a_all = np.zeros(size)
    for s in range(len(x)):
        q_all[:] = scores[s]
        penalty = penalties[s]
        energy = 0.0
        for c in range(x.shape[1]):
            energy += float(x[s, c]) * float(x[s, c])
        a_all[:] = 0
        held, slack = 0, 0.3 * math.sqrt(gap * energy)
        work, coefs = np.empty(0, np.int64), np.empty(0)
        gaps[s] = 0.0
        for _ in range(rounds if energy > 0 else 0):
            left[:] = q_all
            small = coefs.astype(gram.dtype)
            subtract_rows(left, gram, work, small, held)
            fitted = used_up = total = top = 0.0
            for i in range(held):
                n = work[i]
                left[n] -= ridge * coefs[i]
                fitted += coefs[i] * q_all[n]
                used_up += coefs[i] * left[n]
                total += abs(coefs[i])
            for n in range(size):
                top = max(top, left[n] if nonnegative else abs(left[n]))
            gaps[s] = duality_gap(energy, fitted, used_up, total, penalty, top) / energy
            if gaps[s] <= gap:
                break
            work, held, joined = _next_working_set(left, a_all, work, coefs, held, penalty, nonnegative)
            slack *= 0.1 if joined == 0 else 0.5  # atoms may come and go for ever where they are coherent
            sub, q = np.empty((held, held)), np.empty(held)
            coefs = np.empty(held)
            for i in range(held):
                row = gram[work[i]]
                q[i] = q_all[work[i]]
                coefs[i] = a_all[work[i]]
                for j in range(held):
                    sub[i, j] = row[work[j]]
                sub[i, i] += ridge
            _descend(sub, q, coefs, held, penalty, nonnegative, slack)
            for i in range(held):
                a_all[work[i]] = coefs[i]
        for n in range(size):
            scores[s, n] = a_all[n]


@kernel()
def _next_working_set(left, a_all, work, coefs, held, penalty, nonnegative):
    """The atoms in use, and the worst of those that ought to be: (atoms, how many, how many are new)."""
    used = 0
    for i in range(held):
        if coefs[i] != 0:
            used += 1
    room = max(GROW, used)
    found = 0
    candidates, strengths = np.empty(len(left), np.int64), np.empty(len(left))
    for n in range(len(left)):
        strength = left[n] if nonnegative else abs(left[n])
        if a_all[n] == 0 and strength > penalty:
            candidates[found], strengths[found] = n, strength
            found += 1
    joined = min(found, room)
    after = np.empty(used + joined, np.int64)
    used = 0
    for i in range(held):
        if coefs[i] != 0:
            after[used] = work[i]
            used += 1
    if found > room:
        order = np.argsort(-strengths[:found])
        for i in range(joined):
            after[used + i] = candidates[order[i]]
    else:
        after[used:] = candidates[:found]
    return after, used + joined, joined
