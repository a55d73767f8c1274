"""The regression behind an equation of motion: rows that weigh what they know, and moments from which the noise is taken off.

A row says G w = b, with G the integrals of the terms and b that of the derivative. Both come from the same noisy samples, so
the residual r = G w - b has the covariance C = sum_s noise_s^2 M_s M_s^T with M_s = V diag(df/dx_s) + [s is the state] D
(Bortz, Messenger and Dukic 2023, "WENDy"), and G itself is noisy, which pulls least squares towards zero. To first order the
pull is known: E[G^T C^-1 r] = N w + m at the true w, and so

    (G^T C^-1 G - N) w = G^T C^-1 b + m,
    N = sum_s noise_s^2 dT_s^T diag(q) dT_s,      q = diag(V^T C^-1 V),
    m = noise_d^2 dT_d^T diag(V^T C^-1 D),

where dT_s [n, terms] are the terms' derivatives in x_s and d is the state whose equation it is. These are the equations here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_array

from cloche.sparse.sindy.library import Array

_RIDGE = 1e-7  # of C's mean diagonal: windows that overlap nearly say the same
_LEAST = 0.1  # what must be left of a direction's moment after the noise is taken off; below, nothing is known there


@dataclass(frozen=True, eq=False)
class Rows:
    """One trajectory's rows before weighting: V, D [rows, n], G [rows, terms], b [rows, states], slopes [s, n, terms]."""

    V: csr_array
    D: csr_array
    G: Array
    b: Array
    slopes: Array
    DD: Array  # D D^T


@dataclass(frozen=True, eq=False)
class Regression:
    """One state's equation: weighted `rows` [K, terms] and `target` [K], and the moments without the noise's share.

    The objective of terms S with amounts w is energy - 2 w.moment + w.gram.w: chi squared, up to what is the same for all.
    """

    rows: Array
    target: Array
    gram: Array
    moment: Array
    energy: float
    taken: Array  # N, with what the floor gave back
    shift: Array  # m

    def again(self, weights: Array) -> Regression:
        """The same with each row counted `weights` [K] times: a resample of the windows."""
        weighted = self.rows * weights[:, None]
        return Regression(
            self.rows,
            self.target,
            weighted.T @ self.rows - self.taken,
            weighted.T @ self.target + self.shift,
            float(weights @ self.target**2),
            self.taken,
            self.shift,
        )

    def misfit(self, w: Array) -> float:
        """Chi squared of the amounts w over the rows, the noise's share in it."""
        return float(((self.rows @ w - self.target) ** 2).sum())


def regression(rows: Sequence[Rows], d: int, w: Array | None, noise: Array) -> Regression:
    """State d's equation, its rows weighted as if the amounts w [terms] were true (None: only the derivative's noise)."""
    parts = [_weighted(one, d, w, noise) for one in rows]
    G, b = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    taken, shift = np.sum([p[2] for p in parts], axis=0), np.sum([p[3] for p in parts], axis=0)
    plain = G.T @ G
    gram = _floored(plain, plain - taken)
    return Regression(G, b, gram, G.T @ b + shift, float(b @ b), plain - gram, shift)


def _weighted(one: Rows, d: int, w: Array | None, noise: Array) -> tuple[Array, Array, Array, Array]:
    states = one.b.shape[1]
    slopes = one.slopes[:states]
    C = noise[d] ** 2 * one.DD
    if w is not None:
        moves = slopes @ w  # [s, n] df/dx_s
        cross = _scaled(one.V, noise[d] ** 2 * moves[d]) @ one.D.T
        C = C + (_scaled(one.V, noise**2 @ moves**2) @ one.V.T + cross + cross.T).toarray()
    C = C + _RIDGE * np.trace(C) / len(C) * np.eye(len(C))
    root = solve_triangular(cholesky(C, lower=True), np.eye(len(C)), lower=True)
    V, D = one.V.T @ root.T, one.D.T @ root.T  # [n, rows]
    q, qd = (V**2).sum(1), (V * D).sum(1)
    taken = np.zeros((one.G.shape[1],) * 2)
    for s in range(states):
        scaled = slopes[s] * (noise[s] * np.sqrt(q))[:, None]
        taken += scaled.T @ scaled
    shift = noise[d] ** 2 * (slopes[d].T @ qd)
    return root @ one.G, root @ one.b[:, d], taken, shift


def _scaled(matrix: csr_array, columns: Array) -> csr_array:
    scaled = matrix.copy()
    scaled.data *= columns[scaled.indices]
    return scaled


def _floored(plain: Array, corrected: Array) -> Array:
    """`corrected`, with at least a tenth of `plain` left in every direction, so that it stays a matrix of moments."""
    scale = np.sqrt(np.maximum(np.diag(plain), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(plain / np.outer(scale, scale))
    keep = values > 1e-12 * values[-1]
    half = vectors[:, keep] * np.sqrt(values[keep])  # plain = half half^T in units of scale
    inverse = vectors[:, keep] / np.sqrt(values[keep])
    inner = inverse.T @ (corrected / np.outer(scale, scale)) @ inverse
    shares, turns = np.linalg.eigh((inner + inner.T) / 2)
    if shares[0] >= _LEAST:
        return corrected
    turned = half @ turns
    return (turned * np.maximum(shares, _LEAST)) @ turned.T * np.outer(scale, scale)
