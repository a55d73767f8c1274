"""Optimality conditions that a pursuit's result is checked against, computed from the signal and the atoms alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from cloche.errors import ClocheError, NotSolved
from cloche.sparse.pursuit import active_set

EXACT = 1e-6  # share of a signal's norm that counts as zero
_NEAR = 1e-9  # share of a signal's norm by which a condition may be missed
_ROUNDING = 64 * float(np.finfo(np.float64).eps)  # for each unit of |a|_1


def unsolved(what: str) -> ClocheError:
    return NotSolved(
        f"{what} could not be solved to optimality, usually because of repeated atoms: remove duplicates from the "
        "dictionary, or use Lasso."
    )


@dataclass(frozen=True, eq=False)
class Minimum(ABC):
    """Conditions for codes of n signals over `atoms` [N, d], with a penalty or bound per signal, `bounds` [n]. In float64."""

    atoms: np.ndarray
    nonnegative: bool
    bounds: np.ndarray

    @abstractmethod
    def ends(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """(penalty, norm of the residual) [n] at which each path ends, whichever comes first."""

    @abstractmethod
    def excess(self, rows: slice, x: np.ndarray, a: np.ndarray, dual: np.ndarray) -> np.ndarray:
        """[n] by how much the coefficients a [n, N] of the signals x [n, d] miss their conditions; zero or less where optimal.

        `dual` [n, d] is the dual point, if it is not the residual.
        """

    @abstractmethod
    def solved(self, x: np.ndarray, bound: float, a: np.ndarray, dual: np.ndarray) -> bool:
        """Solves one signal again, in place; False if it has no solution."""

    def settle(self, rows: slice, x: np.ndarray, a: np.ndarray, dual: np.ndarray) -> np.ndarray:
        """Solves again, in place, what is not optimal; returns [n] whether there is no solution. Raises if that fails too."""
        none = np.zeros(len(x), bool)
        for at in np.flatnonzero(~(self.excess(rows, x, a, dual) <= 0)):
            one = slice(rows.start + at, rows.start + at + 1)
            if not self.solved(x[at], float(self.bounds[one][0]), a[at], dual[at]):
                none[at], a[at] = True, 0.0
            elif not self.excess(one, x[at : at + 1], a[at : at + 1], dual[at : at + 1])[0] <= 0:
                raise unsolved(f"Signal {one.start:,}")
        return none

    def largest(self, scores: np.ndarray) -> np.ndarray:
        """[n] the largest admissible correlation."""
        return np.asarray((scores if self.nonnegative else np.abs(scores)).max(1))

    def near(self, x: np.ndarray, a: np.ndarray) -> np.ndarray:
        """[n] bound on rounding."""
        return np.asarray(_NEAR * np.linalg.norm(x, axis=1) + _ROUNDING * np.abs(a).sum(1))

    def apart(self, scores: np.ndarray, level: np.ndarray, a: np.ndarray) -> np.ndarray:
        """[n] distance of the correlations from `level`, with the coefficients' signs, on the atoms in use."""
        off = np.where(a != 0, np.abs(scores - level[:, None] * np.sign(a)), 0.0).max(1)
        return np.asarray(np.where(a.min(1) < 0, np.inf, off) if self.nonnegative else off)


@dataclass(frozen=True, eq=False)
class Penalised(Minimum):
    """The lasso's minimiser at a penalty: on the atoms in use the correlations left are the penalty, elsewhere no larger."""

    def ends(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return self.bounds[rows], np.zeros_like(self.bounds[rows])

    def excess(self, rows: slice, x: np.ndarray, a: np.ndarray, dual: np.ndarray) -> np.ndarray:
        scores, level = (x - a @ self.atoms) @ self.atoms.T, self.bounds[rows]
        over = np.maximum(self.largest(scores) - level, self.apart(scores, level, a))
        return np.asarray(over - self.near(x, a))

    def solved(self, x: np.ndarray, bound: float, a: np.ndarray, dual: np.ndarray) -> bool:
        a[:] = active_set.lasso(self.atoms, x, bound, 0.0, self.nonnegative)
        return True


@dataclass(frozen=True, eq=False)
class Denoised(Minimum):
    """The least |a|_1 with a residual of a given norm: the lasso's conditions at the penalty that leaves so much."""

    def ends(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(self.bounds[rows]), self.bounds[rows]

    def excess(self, rows: slice, x: np.ndarray, a: np.ndarray, dual: np.ndarray) -> np.ndarray:
        left, bound = x - a @ self.atoms, self.bounds[rows]
        scores, norm = left @ self.atoms.T, np.linalg.norm(left, axis=1)
        short = np.where((a != 0).any(1), np.abs(norm - bound), norm - bound)
        over = np.maximum(short, self.apart(scores, self.largest(scores), a))
        return np.asarray(over - self.near(x, a))

    def solved(self, x: np.ndarray, bound: float, a: np.ndarray, dual: np.ndarray) -> bool:
        if active_set.distance(self.atoms, x, self.nonnegative) > bound:
            return False
        a[:] = active_set.denoised(self.atoms, x, bound, self.nonnegative)
        return True


@dataclass(frozen=True, eq=False)
class LeastNorm(Minimum):
    """The least |a|_1 with D a = x: a dual point y with |D^T y| <= 1 and x . y = |a|_1 proves it."""

    def ends(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(self.bounds[rows]), np.zeros_like(self.bounds[rows])

    def excess(self, rows: slice, x: np.ndarray, a: np.ndarray, dual: np.ndarray) -> np.ndarray:
        dual = dual / np.maximum(self.largest(dual @ self.atoms.T), 1.0)[:, None]
        total, size = np.abs(a).sum(1), np.linalg.norm(x, axis=1)
        gap = total - (x * dual).sum(1) - 1e-7 * total
        left = np.linalg.norm(x - a @ self.atoms, axis=1) - EXACT * size
        over = np.maximum(gap, left)
        return np.asarray(np.where(a.min(1) < 0, np.inf, over) if self.nonnegative else over)

    def solved(self, x: np.ndarray, bound: float, a: np.ndarray, dual: np.ndarray) -> bool:
        nearest = active_set.nearest(self.atoms, x, self.nonnegative)
        if np.linalg.norm(x - nearest) > EXACT * np.linalg.norm(x):
            return False
        a[:], dual[:] = active_set.least_norm(self.atoms, nearest, self.nonnegative)
        return True
