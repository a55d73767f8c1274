"""Exact solutions for single signals from the atoms instead of their Gram, as a fallback of the compiled pursuits.

Slower but reliable: every step solves least squares by QR, so atoms are distinguished to float64 precision, and those that
are not are treated as dependent. All arrays are float64: atoms D [N, d], a signal x [d], coefficients a [N].
"""

from __future__ import annotations

import numpy as np

from cloche.missing import extra

_ROUNDING = 1e-12  # share of the largest correlation that is not a violation
_DEPENDENT = 1e-13  # distance of an atom from the span of others that counts as zero
_STEPS = 50  # for each dimension and each atom: far more than any case tried has needed


def lasso(
    atoms: np.ndarray, x: np.ndarray, penalty: float, ridge: float, nonnegative: bool, start: np.ndarray | None = None
) -> np.ndarray:
    """a minimising 1/2 |x - D a|^2 + penalty |a|_1 + ridge/2 |a|^2, by feature-sign search (Lee, Battle, Raina & Ng 2006): the
    coefficients go to the minimiser for their signs, or as far as the first that reaches zero; then the worst violator joins.

    The objective falls with every step, so no set of signs comes twice. From `start` where one is given. The caller must
    check the result: it is not optimal if the steps ran out.
    """
    a = np.zeros(len(atoms)) if start is None else start.copy()
    chosen, signs = np.flatnonzero(a).tolist(), np.sign(a)
    largest = float(np.abs(atoms @ x).max())
    refused: set[int] = set()
    for _ in range(_STEPS * sum(atoms.shape)):
        settled = _descend(atoms, x, a, chosen, signs, penalty, ridge)
        if not settled:
            continue
        c = atoms @ (x - a @ atoms) - ridge * a
        over = (c if nonnegative else np.abs(c)) - penalty
        over[chosen] = -np.inf
        over[list(refused)] = -np.inf
        new = int(over.argmax())
        if over[new] <= _ROUNDING * largest + 4e-16 * np.abs(a).sum():
            break
        chosen.append(new)
        signs[new] = np.sign(c[new])
        if _descend(atoms, x, a, chosen, signs, penalty, ridge) or new in chosen:
            refused.clear()
        else:
            refused.add(new)  # its correlation was rounding
    return a


def _descend(
    atoms: np.ndarray, x: np.ndarray, a: np.ndarray, chosen: list[int], signs: np.ndarray, penalty: float, ridge: float
) -> bool:
    """One step towards the minimiser for these signs; returns whether it was reached, rather than an atom dropped on the
    way."""
    if not chosen:
        return True
    here, theta = a[chosen], signs[chosen]
    direction, free = _direction(atoms[chosen], x, here, theta, penalty, ridge)
    towards = here + direction
    crosses = (towards * theta <= 0) if not free else (direction * theta < 0)
    if not crosses.any():
        if free:
            return True
        a[chosen] = towards
        return True
    shares = np.where(crosses, np.abs(here) / np.maximum(np.abs(direction), 1e-300), np.inf)
    leaves = int(np.argmin(shares))
    a[chosen] = here + shares[leaves] * direction
    a[chosen[leaves]] = 0.0
    a[chosen] = np.where(a[chosen] * theta < 0, 0.0, a[chosen])
    del chosen[leaves]
    return False


def _direction(
    atoms: np.ndarray, x: np.ndarray, a: np.ndarray, signs: np.ndarray, penalty: float, ridge: float
) -> tuple[np.ndarray, bool]:
    """(the way from a to the minimiser for these signs, False), or where the atoms are dependent (a way along which only |a|_1
    changes, falling, True)."""
    design, left = atoms.T, x - a @ atoms
    if ridge:
        design = np.concatenate([design, np.sqrt(ridge) * np.eye(len(a))])
        left = np.concatenate([left, -np.sqrt(ridge) * a])
    q, r = np.linalg.qr(design)
    pivots = np.abs(np.diagonal(r))
    if len(pivots) < len(a) or pivots.min() <= _DEPENDENT:
        at = len(pivots) if pivots.min(initial=1.0) > _DEPENDENT else int(np.argmax(pivots <= _DEPENDENT))
        way = np.zeros(len(a))
        way[at] = 1.0
        way[:at] = -np.linalg.solve(r[:at, :at], r[:at, at])
        return (-way if way @ signs > 0 else way), True
    return np.linalg.solve(r, q.T @ left - penalty * np.linalg.solve(r.T, signs)), False


def duality_gap(
    atoms: np.ndarray, x: np.ndarray, a: np.ndarray, penalty: float, ridge: float, nonnegative: bool
) -> float:
    """Upper bound on how far the objective of `lasso` is above its minimum."""
    left = x - a @ atoms
    scores = atoms @ left - ridge * a
    top = float((scores if nonnegative else np.abs(scores)).max())
    residual = float(left @ left) + ridge * float(a @ a)
    along = float(left @ x)
    scale = max(along / residual, 0.0) if residual > 0 else 0.0
    scale = min(scale, penalty / top) if top > 0 else scale
    return 0.5 * residual + penalty * float(np.abs(a).sum()) - scale * along + 0.5 * scale**2 * residual


def positive_least_squares(atoms: np.ndarray, x: np.ndarray) -> np.ndarray:
    """a >= 0 minimising |x - D a|."""
    return lasso(atoms, x, 0.0, 0.0, True)


def positive_matching(atoms: np.ndarray, x: np.ndarray, k: int, tolerance: float, floor: float) -> np.ndarray:
    """The coefficients of non-negative orthogonal matching pursuit, by the rules of its kernel."""
    chosen: list[int] = []
    barred: set[int] = set()
    a, least = np.zeros(len(atoms)), floor * float(np.linalg.norm(x))
    for _ in range(3 * k):  # atoms may leave again, so the steps are bounded apart from the atoms
        left = x - a @ atoms
        if len(chosen) >= k or np.linalg.norm(left) <= tolerance:
            break
        c = atoms @ left
        c[chosen] = -np.inf
        c[list(barred)] = -np.inf
        new = int(c.argmax())
        if c[new] <= least:
            break
        tried = [*chosen, new]
        fitted = positive_least_squares(atoms[tried], x)
        if fitted[-1] <= 0:
            barred.add(new)
            continue
        barred.clear()
        a[:] = 0
        a[tried] = fitted
        chosen = [atom for atom in tried if a[atom] > 0]
    return a


def denoised(atoms: np.ndarray, x: np.ndarray, residual: float, nonnegative: bool) -> np.ndarray:
    """a of least |a|_1 with |x - D a| = residual, for a residual that can be reached: the lasso at the one penalty that leaves
    so much, found by walking from segment to segment of its path between two penalties that enclose it."""
    low, high = 0.0, float(np.abs(atoms @ x).max())
    penalty, a = 0.5 * high, np.zeros(len(atoms))
    for _ in range(200):
        a = lasso(atoms, x, penalty, 0.0, nonnegative, a)
        left = float(np.linalg.norm(x - a @ atoms))
        low, high = (penalty, high) if left < residual else (low, penalty)
        chosen = np.flatnonzero(a)
        if high - low <= 1e-14 * high or left == residual:
            break
        proposed = _penalty_leaving(atoms[chosen], x, np.sign(a[chosen]), residual)
        if abs(proposed - penalty) <= 1e-14 * penalty:
            break
        penalty = proposed if low < proposed < high else 0.5 * (low + high)
    return a


def _penalty_leaving(atoms: np.ndarray, x: np.ndarray, signs: np.ndarray, residual: float) -> float:
    """The penalty at which these atoms with these signs leave a residual of that norm; -1 if there is none."""
    if len(atoms) == 0:
        return -1.0
    q, r = np.linalg.qr(atoms.T)
    if len(signs) > len(r) or np.abs(np.diagonal(r)).min() <= _DEPENDENT:
        return -1.0
    along = q @ np.linalg.solve(r.T, signs)
    apart = residual**2 - float(np.sum((x - q @ (q.T @ x)) ** 2))
    return float(np.sqrt(apart / (along @ along))) if apart >= 0 else -1.0


def least_norm(atoms: np.ndarray, x: np.ndarray, nonnegative: bool) -> tuple[np.ndarray, np.ndarray]:
    """(a of least |a|_1 with D a = x, y with |D^T y| <= 1 and x . y = |a|_1, which proves it), for an x that is a combination
    of the atoms: the end of the lasso's path; where penalties this small do not tell its atoms, by linear programming."""
    largest, a = float(np.abs(atoms @ x).max()), np.zeros(len(atoms))
    for share in (1e-6, 1e-9, 1e-12):
        a = lasso(atoms, x, share * largest, 0.0, nonnegative, a)
        chosen = np.flatnonzero(a)
        q, r = np.linalg.qr(atoms[chosen].T)
        if 0 < len(chosen) <= len(r) and np.abs(np.diagonal(r)).min() > _DEPENDENT:
            dual = q @ np.linalg.solve(r.T, np.sign(a[chosen]))
            fitted = np.linalg.solve(r, q.T @ x)
            scores = atoms @ dual
            feasible = float((scores if nonnegative else np.abs(scores)).max()) <= 1 + 1e-7
            if feasible and (fitted * a[chosen] >= 0).all() and np.linalg.norm(x - fitted @ atoms[chosen]) <= 1e-8:
                a[chosen] = fitted
                return a, dual
    return _least_norm_by_programming(atoms, x, nonnegative)


def _least_norm_by_programming(atoms: np.ndarray, x: np.ndarray, nonnegative: bool) -> tuple[np.ndarray, np.ndarray]:
    linprog = extra("scipy.optimize", "sparse", "Basis pursuit over dependent atoms needs scipy").linprog
    design = atoms.T if nonnegative else np.concatenate([atoms.T, -atoms.T], 1)
    basis = np.linalg.svd(atoms, full_matrices=False)[2]
    basis = basis[: np.linalg.matrix_rank(atoms, tol=_DEPENDENT)]  # without equations that rounding could violate
    # A signal of few atoms in float32 has coefficients of its rounding besides, below the solver's usual tolerance of 1e-7.
    exact = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(np.ones(design.shape[1]), A_eq=basis @ design, b_eq=basis @ x, method="highs-ds", options=exact)
    if found.x is None:
        return np.zeros(len(atoms)), np.zeros(len(x))
    a = found.x if nonnegative else found.x[: len(atoms)] - found.x[len(atoms) :]
    chosen = np.flatnonzero(a)
    fitted = np.linalg.lstsq(atoms[chosen].T, x, rcond=None)[0]
    if np.all(fitted * a[chosen] > 0):
        a[chosen] = fitted
    return a, basis.T @ found.eqlin.marginals


def path(atoms: np.ndarray, x: np.ndarray, penalty: float, nonnegative: bool) -> tuple[np.ndarray, np.ndarray]:
    """(penalties [m] falling to `penalty`, coefficients [m, N]) at the bends of the lasso's path: each segment is found by
    solving just below its upper end, and ends where an coefficient reaches zero or a correlation the penalty."""
    scores = atoms @ x
    level = max(float((scores if nonnegative else np.abs(scores)).max()), 0.0)
    levels, coefs = [level], [np.zeros(len(atoms))]
    least = 1e-7 * level
    for _ in range(_STEPS * sum(atoms.shape)):
        if level <= penalty:
            break
        beneath = max(level - least, penalty)
        a = lasso(atoms, x, beneath, 0.0, nonnegative, coefs[-1])
        chosen = np.flatnonzero(a)
        slope = np.zeros(len(atoms))
        if len(chosen):
            slope[chosen] = np.linalg.lstsq(atoms[chosen] @ atoms[chosen].T, np.sign(a[chosen]), rcond=None)[0]
        falls = _falls(atoms, x, a, slope, beneath, nonnegative)
        fall = min(falls.min(initial=np.inf), beneath - penalty)
        level = beneath - fall
        levels.append(level)
        after = a + fall * slope
        coefs.append(np.where(np.abs(after) <= 1e-12 * np.abs(a), 0.0, after))  # those that reached zero are dropped
    return np.array(levels), np.array(coefs)


def _falls(
    atoms: np.ndarray, x: np.ndarray, a: np.ndarray, slope: np.ndarray, level: float, nonnegative: bool
) -> np.ndarray:
    """How far the penalty may fall from `level` before each event: coefficients that reach zero, correlations that reach it."""
    c, pull = atoms @ (x - a @ atoms), atoms @ (slope @ atoms)
    out, leaving = a == 0, a * slope < 0
    falls = [-a[leaving] / slope[leaving]]
    for sign in (1.0,) if nonnegative else (1.0, -1.0):
        closing = 1 - sign * pull[out]
        falls.append(np.maximum(level - sign * c[out], 0)[closing > 1e-9] / closing[closing > 1e-9])
    return np.concatenate(falls)


def nearest(atoms: np.ndarray, x: np.ndarray, nonnegative: bool) -> np.ndarray:
    """The signal nearest to x that a code can represent."""
    if nonnegative:
        return np.asarray(positive_least_squares(atoms, x) @ atoms)
    return np.asarray(np.linalg.lstsq(atoms.T, x, rcond=_DEPENDENT)[0] @ atoms)


def distance(atoms: np.ndarray, x: np.ndarray, nonnegative: bool) -> float:
    """Distance of x from the nearest signal that a code can represent."""
    return float(np.linalg.norm(x - nearest(atoms, x, nonnegative)))
