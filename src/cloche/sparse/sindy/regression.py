"""The regression behind an equation of motion: rows weighted by their noise, and moments from which the bias by noise is
removed.

A row says G w = b, with G the integrals of the terms and b that of the derivative. Both come from the same noisy samples,
so the residual r = G w - b has the covariance C = sum_s noise_s^2 M_s M_s^T with M_s = V diag(df/dx_s) + [s is the state] D
(Bortz, Messenger and Dukic 2023, "WENDy"), and G itself is noisy, which biases least squares towards zero. To first order
the bias is known: E[G^T C^-1 r] = N w + m at the true w, and so

    (G^T C^-1 G - N) w = G^T C^-1 b + m,
    N = sum_s noise_s^2 dT_s^T diag(q) dT_s,      q = diag(V^T C^-1 V),
    m = noise_d^2 dT_d^T diag(V^T C^-1 D),

where dT_s [n, terms] are the derivatives of the terms in x_s, and d is the state of the equation.

G, N and m are computed for a well-conditioned basis of the terms (`Library.centred`), in directions in which G^T C^-1 G is
the identity. There both sides of the equations above have unit error, so least squares on them is chi squared. Directions
that contain little but noise (a sum of states that never changes, say) carry no information and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_array

from cloche.sparse.sindy.library import Array

_RIDGE = 1e-7  # of C's mean diagonal: rows of overlapping windows are nearly dependent
LEAST_SIGNAL = 0.1  # of a direction's moment that must be left without the noise; directions with less are not known
_ROUNDING = 1e-12  # of the largest moment of the basis: smaller directions are rounding


@dataclass(frozen=True, eq=False)
class Rows:
    """One trajectory's rows before weighting: V, D [rows, n], G [rows, basis], b [rows, states], slopes [s, n, basis]."""

    V: csr_array
    D: csr_array
    G: Array
    b: Array
    slopes: Array
    DD: Array  # D D^T


@dataclass(frozen=True, eq=False)
class Noise:
    """[states] the standard deviation of the measurement noise: `measured`, and `assumed`, which has a lower bound.

    Rows are weighted, and directions left out, by the assumed noise; the bias removed from the moments is that of the
    measured noise.
    """

    measured: Array
    assumed: Array


@dataclass(frozen=True, eq=False)
class Regression:
    """One state's equation: weighted `rows` [K, directions] and `target` [K], in directions that are orthonormal over the
    rows.

    `terms` [directions, terms] gives the terms from them; the first `known` directions contain more than noise. The
    objective of coefficients w is |design w - aim|^2: chi squared, up to a constant.
    """

    rows: Array
    target: Array
    terms: Array
    known: int
    basis: Array  # [basis, terms] gives the terms from the basis
    noise: Array  # [basis, basis] share of the assumed noise in the moments of the basis
    inner: Array  # [known, known] moments of the known directions, with the noise bias removed
    aim: Array  # [known] their moments with the target, with the noise bias removed
    bias: Array  # [known, known] the bias that was removed from the moments
    shift: Array  # [known] and from their moments with the target

    @cached_property
    def design(self) -> Array:
        """[known, terms] the moments of the terms, with the noise bias removed."""
        return self.inner @ self.terms[: self.known]

    def reweighted(self, weights: Array) -> Regression:
        """The same regression with row k counted `weights[k]` times: a resample of the windows."""
        rows = self.rows[:, : self.known]
        weighted = rows * weights[:, None]
        inner, aim = weighted.T @ rows - self.bias, weighted.T @ self.target + self.shift
        return replace(self, inner=inner, aim=aim)

    def residual(self, w: Array) -> Array:
        """[K] residual of the rows at coefficients w, in standard deviations of the noise."""
        return self.rows @ (self.terms @ w) - self.target

    def misfit(self, w: Array) -> float:
        """Chi squared of coefficients w over the rows, including the part due to noise."""
        return float((self.residual(w) ** 2).sum())


def regression(rows: Sequence[Rows], d: int, w: Array | None, noise: Noise, terms: Array) -> Regression:
    """The regression of state d in the terms that `terms` [basis, terms] gives from the basis.

    The rows are weighted as if the coefficients w [terms] were true (None: only for the noise of the derivative).
    """
    parts = [_weighted(one, d, None if w is None else terms @ w, noise) for one in rows]
    G, b = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    shares, shift = np.sum([p[2] for p in parts], axis=0), np.sum([p[3] for p in parts], axis=0)
    into, back = _directions(G.T @ G)
    assumed = np.tensordot(noise.assumed**2, shares, 1)
    lost, turns = np.linalg.eigh(into.T @ assumed @ into)  # rising
    into, back, known = into @ turns, turns.T @ back, int((1 - lost >= LEAST_SIGNAL).sum())
    directions = G @ into
    signal = directions[:, :known]
    bias = into[:, :known].T @ np.tensordot(noise.measured**2, shares, 1) @ into[:, :known]
    moved = noise.measured[d] ** 2 * (into[:, :known].T @ shift)
    inner, aim = signal.T @ signal - bias, signal.T @ b + moved
    return Regression(directions, b, back @ terms, known, terms, assumed, inner, aim, bias, moved)


def _directions(moments: Array) -> tuple[Array, Array]:
    """(into [basis, directions], back [directions, basis]) with into^T moments into = I and back into = I."""
    scale = np.sqrt(np.maximum(np.diag(moments), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(moments / np.outer(scale, scale))
    keep = values > _ROUNDING * values[-1]
    roots, vectors = np.sqrt(values[keep]), vectors[:, keep]
    return vectors / roots / scale[:, None], (vectors * roots).T * scale


def _weighted(one: Rows, d: int, w: Array | None, noise: Noise) -> tuple[Array, Array, Array, Array]:
    """(G, b, [states] moments of unit noise of each state, shift by unit noise of state d), weighted by C."""
    states, sizes = one.b.shape[1], noise.assumed
    slopes = one.slopes[:states]
    C = sizes[d] ** 2 * one.DD
    if w is not None:
        moves = slopes @ w  # [s, n] df/dx_s
        cross = _scaled(one.V, sizes[d] ** 2 * moves[d]) @ one.D.T
        C = C + (_scaled(one.V, sizes**2 @ moves**2) @ one.V.T + cross + cross.T).toarray()
    C = C + _RIDGE * np.trace(C) / len(C) * np.eye(len(C))
    root = solve_triangular(cholesky(C, lower=True), np.eye(len(C)), lower=True)
    V, D = one.V.T @ root.T, one.D.T @ root.T  # [n, rows]
    q, qd = np.sqrt((V**2).sum(1)), (V * D).sum(1)
    scaled = slopes * q[:, None]
    return root @ one.G, root @ one.b[:, d], np.swapaxes(scaled, 1, 2) @ scaled, slopes[d].T @ qd


def _scaled(matrix: csr_array, columns: Array) -> csr_array:
    scaled = matrix.copy()
    scaled.data *= columns[scaled.indices]
    return scaled
