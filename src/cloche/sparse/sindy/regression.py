"""The regression behind an equation of motion: rows that weigh what they know, and moments from which the noise is taken off.

A row says G w = b, with G the integrals of the terms and b that of the derivative. Both come from the same noisy samples, so
the residual r = G w - b has the covariance C = sum_s noise_s^2 M_s M_s^T with M_s = V diag(df/dx_s) + [s is the state] D
(Bortz, Messenger and Dukic 2023, "WENDy"), and G itself is noisy, which pulls least squares towards zero. To first order the
pull is known: E[G^T C^-1 r] = N w + m at the true w, and so

    (G^T C^-1 G - N) w = G^T C^-1 b + m,
    N = sum_s noise_s^2 dT_s^T diag(q) dT_s,      q = diag(V^T C^-1 V),
    m = noise_d^2 dT_d^T diag(V^T C^-1 D),

where dT_s [n, terms] are the terms' derivatives in x_s and d is the state whose equation it is.

G, N and m are worked out for a basis of the terms that stays well conditioned (`Library.centred`), in directions in which
G^T C^-1 G is one. There both sides of the equations above err by one, so least squares on them is chi squared. In a direction
that holds little besides noise (a sum of states that never changes, say) they tell nothing, and it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_array

from cloche.sparse.sindy.library import Array

_RIDGE = 1e-7  # of C's mean diagonal: windows that overlap nearly say the same
LEAST_SIGNAL = (
    0.1  # of a direction's moment that must be left when the noise is taken off; below, nothing is known there
)
_ROUNDING = 1e-12  # of the largest moment of the basis: directions below it are rounding


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
    """[states] the standard deviation of the measurement noise: `measured`, and `supposed`, which is not below a floor.

    Rows are weighted, and directions left out, by what is supposed; the bias taken off the moments is that of the measured.
    """

    measured: Array
    supposed: Array


@dataclass(frozen=True, eq=False)
class Regression:
    """One state's equation: weighted `rows` [K, directions] and `target` [K], in directions that are orthonormal over the rows.

    `terms` [directions, terms] makes the terms of them; the first `told` directions hold more than noise. The objective of
    terms with amounts w is |design w - aim|^2: chi squared, up to what is the same for all.
    """

    rows: Array
    target: Array
    terms: Array
    told: int
    basis: Array  # [basis, terms] makes the terms of the basis
    noise: Array  # [basis, basis] the supposed noise's share of the moments of the basis
    inner: Array  # [told, told] the moments of the directions told, the noise taken off
    aim: Array  # [told]
    taken: Array  # [told, told] the noise's share of the moments
    shift: Array  # [told]

    @cached_property
    def design(self) -> Array:
        """[told, terms]"""
        return self.inner @ self.terms[: self.told]

    def again(self, weights: Array) -> Regression:
        """The same with each row counted `weights` [K] times: a resample of the windows."""
        rows = self.rows[:, : self.told]
        weighted = rows * weights[:, None]
        inner, aim = weighted.T @ rows - self.taken, weighted.T @ self.target + self.shift
        return replace(self, inner=inner, aim=aim)

    def residual(self, w: Array) -> Array:
        """[K] what the amounts w leave of the rows, in standard deviations of the noise."""
        return self.rows @ (self.terms @ w) - self.target

    def misfit(self, w: Array) -> float:
        """Chi squared of the amounts w over the rows, the noise's share in it."""
        return float((self.residual(w) ** 2).sum())


def regression(rows: Sequence[Rows], d: int, w: Array | None, noise: Noise, terms: Array) -> Regression:
    """State d's equation in the terms that `terms` [basis, terms] makes of the basis.

    The rows are weighted as if the amounts w [terms] were true (None: only the derivative's noise).
    """
    parts = [_weighted(one, d, None if w is None else terms @ w, noise) for one in rows]
    G, b = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    shares, shift = np.sum([p[2] for p in parts], axis=0), np.sum([p[3] for p in parts], axis=0)
    into, back = _directions(G.T @ G)
    supposed = np.tensordot(noise.supposed**2, shares, 1)
    lost, turns = np.linalg.eigh(into.T @ supposed @ into)  # rising
    into, back, told = into @ turns, turns.T @ back, int((1 - lost >= LEAST_SIGNAL).sum())
    directions = G @ into
    heard = directions[:, :told]
    taken = into[:, :told].T @ np.tensordot(noise.measured**2, shares, 1) @ into[:, :told]
    moved = noise.measured[d] ** 2 * (into[:, :told].T @ shift)
    inner, aim = heard.T @ heard - taken, heard.T @ b + moved
    return Regression(directions, b, back @ terms, told, terms, supposed, inner, aim, taken, moved)


def _directions(moments: Array) -> tuple[Array, Array]:
    """(into [basis, directions], back [directions, basis]) so that into^T moments into is one; back into is one as well."""
    scale = np.sqrt(np.maximum(np.diag(moments), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(moments / np.outer(scale, scale))
    keep = values > _ROUNDING * values[-1]
    roots, vectors = np.sqrt(values[keep]), vectors[:, keep]
    return vectors / roots / scale[:, None], (vectors * roots).T * scale


def _weighted(one: Rows, d: int, w: Array | None, noise: Noise) -> tuple[Array, Array, Array, Array]:
    """(G, b, [states] the moments of unit noise of each state, the shift by unit noise of state d), weighted by C."""
    states, sizes = one.b.shape[1], noise.supposed
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
