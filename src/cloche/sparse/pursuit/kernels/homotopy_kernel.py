"""The lasso's path from an empty code to no penalty at all (Osborne et al. 2000; LARS: Efron et al. 2004), compiled.

As the penalty falls the coefficients move along straight lines, until an atom joins (its correlation reaches the penalty)
or one leaves (its coefficient reaches zero). The path meets every minimiser of |a|_1 under a bound on the residual, and
where the penalty reaches zero, under equality: basis pursuit. All in double precision.
"""

from __future__ import annotations

import math

import numpy as np

from cloche.sparse.compiled import kernel

DEPENDENT = 1e-13  # squared distance of an atom from the span of others that counts as none


@kernel(fastmath=True)
def _combine(out, gram, chosen, weights, used):
    """out = the chosen rows of the Gram times their weights."""
    out[:] = 0
    for i in range(used):
        row, weight = gram[chosen[i]], weights[i]
        for n in range(len(out)):
            out[n] += weight * row[n]


@kernel()
def _append(factor, gram, chosen, used):
    """Adds the row of chosen[used] to the Cholesky factor; False where that atom lies in the span of those before it."""
    if used == len(factor):
        return False
    new, rest = chosen[used], gram[chosen[used], chosen[used]]
    for i in range(used):
        total = gram[new, chosen[i]]
        for m in range(i):
            total -= factor[used, m] * factor[i, m]
        factor[used, i] = total / factor[i, i]
        rest -= factor[used, i] * factor[used, i]
    if rest <= DEPENDENT:
        return False
    factor[used, used] = math.sqrt(rest)
    return True


@kernel()
def _direction(factor, signs, used, direction):
    """How the coefficients move as the penalty falls by one."""
    for j in range(used):
        direction[j] = signs[j]
        for m in range(j):
            direction[j] -= factor[j, m] * direction[m]
        direction[j] /= factor[j, j]
    for j in range(used - 1, -1, -1):
        for m in range(j + 1, used):
            direction[j] -= factor[m, j] * direction[m]
        direction[j] /= factor[j, j]


@kernel()
def _next_to_join(c, pull, level, barred, nonnegative):
    """(how far the penalty falls before an atom joins, that atom or -1)."""
    nearest, atom = math.inf, -1
    for n in range(len(c)):
        if barred[n]:
            continue
        for sign in (1.0, -1.0):
            if sign < 0 and nonnegative:
                continue
            closing = 1 - sign * pull[n]  # |c| comes nearer to the penalty by so much, for one that the penalty falls
            if closing > 1e-12:
                fall = max(level - sign * c[n], 0.0) / closing
                if fall < nearest:
                    nearest, atom = fall, n
    return nearest, atom


@kernel()
def _reach(energy_left, slope, curve, target):
    """The fall at which the residual's energy, energy_left - 2 slope t + curve t^2, is down to `target`; inf if never."""
    if target <= 0:
        return math.inf  # nothing is left only where the path ends, and there the root has no digits
    inner = slope * slope - curve * (energy_left - target)
    if curve <= 0 or inner < 0:
        return math.inf
    return (slope - math.sqrt(inner)) / curve


@kernel("LARS path", seconds=4)
def homotopy(q, energy, gram, rank, penalty, target, nonnegative, most, a, slopes, knots):
    """Walks one signal's path from q = D^T x [N] down to `penalty`, or to a residual of energy `target`.

    At most `rank` atoms are independent. Fills a [N], slopes [N] with how the coefficients last moved as the penalty fell
    by one, and as far as it has rows `knots` [m, 1 + N] with the penalty and the coefficients at each bend. Returns the
    bends, or -1 where `most` did not bring it there. What it fills is for the caller to check: atoms that join or leave at
    the same penalty can lead it astray.
    """
    size = len(q)
    c, pull = q.copy(), np.zeros(size)
    chosen, signs, direction = np.empty(size, np.int64), np.empty(size), np.empty(size)
    barred, factor = np.zeros(size, np.bool_), np.empty((min(rank, size), min(rank, size)))
    a[:] = 0
    slopes[:] = 0
    used, bends = 0, 0
    level = max(np.max(q), 0.0) if nonnegative else np.max(np.abs(q))
    least = 1e-13 * level
    while bends < most:
        left = energy
        for i in range(used):
            left -= a[chosen[i]] * (q[chosen[i]] + c[chosen[i]])
        left = max(left, 0.0)
        if bends < len(knots):
            knots[bends, 0] = level
            knots[bends, 1:] = a
        if level <= max(penalty, least) or left <= target:
            return bends
        _direction(factor, signs, used, direction)
        _combine(pull, gram, chosen, direction, used)
        slopes[:] = 0
        for i in range(used):
            slopes[chosen[i]] = direction[i]
        fall, joins = _next_to_join(c, pull, level, barred, nonnegative)
        leaves = -1
        for i in range(used):
            if direction[i] * signs[i] < 0:
                crossing = -a[chosen[i]] / direction[i]
                if crossing < fall:
                    fall, leaves = crossing, i
        slope = curve = 0.0
        for i in range(used):
            slope += direction[i] * c[chosen[i]]
            curve += direction[i] * pull[chosen[i]]
        stop = min(level - penalty, _reach(left, slope, curve, target)) if used > 0 else level - penalty
        ends = stop <= fall
        fall = min(fall, stop, level)
        for i in range(used):
            a[chosen[i]] += fall * direction[i]
        for n in range(size):
            c[n] -= fall * pull[n]
        level -= fall
        bends += 1
        if ends:
            target = math.inf
        elif leaves >= 0:
            # It may come back, with the other sign at the very next bend. With the same sign it cannot at once: from here on
            # its correlation falls faster than the penalty. What lay in the span of the atoms may lie outside it now.
            a[chosen[leaves]] = 0
            for i in range(leaves, used - 1):
                chosen[i], signs[i] = chosen[i + 1], signs[i + 1]
                _append(factor, gram, chosen, i)
            used -= 1
            barred[:] = False
            for i in range(used):
                barred[chosen[i]] = True
        elif joins >= 0:
            chosen[used], signs[used] = joins, math.copysign(1.0, c[joins])
            barred[joins] = True  # also where it lies in the span of the others, until one of those leaves
            if _append(factor, gram, chosen, used):
                used += 1
        else:
            target = math.inf
    return -1


@kernel("LARS", seconds=4)
def homotopy_rows(x, gram, scores, penalty, residual, nonnegative, most, slopes):
    """Overwrites `scores` [n, N] with the coefficients at the end of each path and fills `slopes` [n, N]."""
    a, none = np.empty(gram.shape[0]), np.empty((0, 1 + gram.shape[0]))
    for s in range(len(scores)):
        energy = np.sum(x[s].astype(np.float64) ** 2)
        q = scores[s].astype(np.float64)
        target = residual[s] * residual[s]
        homotopy(q, energy, gram, x.shape[1], penalty[s], target, nonnegative, most, a, slopes[s], none)
        for n in range(len(a)):
            scores[s, n] = a[n]
