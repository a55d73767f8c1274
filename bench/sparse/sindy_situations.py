"""Situations in which equations of motion are easily wrong and confident, for `sindy.py`: what is found and what is said.

`exact` are runs in which every equation has its true terms, where there are such. `warned` are runs in which what is wanted
is said: that terms are dependent, or of every state that its equation leaves more than noise. `confident` are runs with an
equation that explains over 90% and is not exact, and of which nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from cloche.sparse.sindy import Library, Model, Polynomials, SINDy

NOISES = (1e-6, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Situation:
    """Series without their noise; `truth` are the terms of each state, None where no equation is true."""

    times: np.ndarray
    make: Callable[[np.random.Generator], np.ndarray]
    library: Library | None
    truth: tuple[frozenset[str], ...] | None
    dependent: bool = False
    noises: tuple[float, ...] = NOISES


def _motion(slope: Callable[..., Sequence[float]], start: Sequence[float], t: np.ndarray) -> np.ndarray:
    return solve_ivp(slope, (t[0], t[-1]), start, "DOP853", t, rtol=1e-10, atol=1e-12).y.T


def _terms(*equations: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(one.split(", ")) for one in equations)


def _walk(sums: int) -> Callable[[np.random.Generator], np.ndarray]:
    def make(rng: np.random.Generator) -> np.ndarray:
        x = rng.standard_normal((500, 2))
        for _ in range(sums):
            x = x.cumsum(0)
        return x

    return make


def situations() -> dict[str, Situation]:
    t, late = np.linspace(0, 8, 800), np.arange(0, 20, 0.01)
    decay = np.exp(-t)
    chain = _motion(lambda _, s: [-s[0], s[0] - 0.5 * s[1], 0.5 * s[1]], [1, 0, 0], t)
    swing = _motion(lambda _, s: [s[1], -s[0] - 0.1 * s[1]], [1, 0], late)
    reaction = _motion(lambda _, s: [1 + s[0] ** 2 * s[1] - 4 * s[0], 3 * s[0] - s[0] ** 2 * s[1]], [1, 1], late)
    one, three = _terms("x0", "x0"), _terms("x0", "x0, x1", "x1")
    shifted, cubic = _terms("1, x1", "1, x0, x1"), _terms("1, x0, x0^2 x1", "x0, x0^2 x1")
    sampled = 0.1 * np.arange(500)
    return {
        "A to B, of sum one": Situation(t, lambda _: np.stack([decay, 1 - decay], 1), Polynomials(2), one, True),
        "A to B to C, of sum one": Situation(t, lambda _: chain, Polynomials(2), three, True),
        "300 K and 1e5 Pa": Situation(late * 1e3, lambda _: swing * [10, 2e3] + [300, 1e5], Polynomials(2), shifted),
        "1e5 give or take 10": Situation(late, lambda _: swing * 10 + 1e5, Polynomials(3), shifted),
        "Brusselator, degree 2 chosen": Situation(late, lambda _: reaction, Polynomials(2), None),
        "Brusselator, default": Situation(late, lambda _: reaction, None, cubic),
        "random walk": Situation(sampled, _walk(1), None, None, noises=(0.0,)),
        "integrated random walk": Situation(sampled, _walk(2), None, None, noises=(0.0,)),
        "twice integrated random walk": Situation(sampled, _walk(3), None, None, noises=(0.0,)),
    }


def judge(seeds: range) -> dict[str, dict[str, dict[str, int]]]:
    """For each situation and noise: runs, and how many are exact, warned of, and confident though wrong."""
    found = {}
    for name, one in situations().items():
        found[name] = {}
        for noise in one.noises:
            counts = {"runs": len(seeds), "exact": 0, "warned": 0, "confident": 0}
            for seed in seeds:
                rng = np.random.default_rng(seed)
                x = one.make(rng)
                model = SINDy(one.library, resamples=0).fit(
                    x + noise * x.std(0) * rng.standard_normal(x.shape), one.times
                )
                exact = one.truth is not None and _supports(model) == one.truth
                warned = _warned(model, one.dependent)
                sure = bool(((model.coefficients != 0).any(0) & (model.explained > 0.9) & model.adequate).any())
                counts["exact"] += exact
                counts["warned"] += warned
                counts["confident"] += sure and not exact and not (one.dependent and warned)
            found[name][f"{noise:g}"] = counts
    return found


def _supports(model: Model) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(model.terms[j] for j in np.flatnonzero(w)) for w in model.coefficients.T)


def _warned(model: Model, dependent: bool) -> bool:
    return any("dependent" in note for note in model.notes) if dependent else not bool(model.adequate.any())
