"""The ten systems of `sindy.py`: their equations, the library a fit is offered, and how each is measured.

Every run has 5,000 samples in all: one long trajectory of the chaotic and driven systems, several short ones of those that come
to rest or to a cycle, where one trajectory holds little. Starting points are drawn anew for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp

from cloche.sparse.sindy import Fourier, Library, Polynomials

Point = Sequence[float]
QUADRATIC, CUBIC = Polynomials(2), Polynomials(3)
CHAIN = 0.25  # strength of the quadratic springs between the three bodies


@dataclass(frozen=True)
class System:
    """x' = slope(t, x); `truth` are the terms of each state's equation, by the library's names for them."""

    variables: tuple[str, ...]  # states, then the input where there is one
    slope: Callable[[float, Point], Sequence[float]]
    truth: tuple[tuple[str, ...], ...]
    library: Library
    start: Callable[[np.random.Generator], Point]
    step: float
    runs: int = 5
    samples: int = 1_000  # of a trajectory
    before: float = 0.0  # time that passes before the first sample
    drive: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def states(self) -> tuple[str, ...]:
        return self.variables[: len(self.truth)]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.variables[len(self.truth) :]

    def clean(self, seed: int) -> tuple[np.random.Generator, np.ndarray, list[np.ndarray], list[np.ndarray] | None]:
        """(the seed's generator, times, trajectories, inputs)."""
        rng = np.random.default_rng(seed)
        t = self.before + self.step * np.arange(self.samples)
        found = []
        for _ in range(self.runs):
            motion = solve_ivp(self.slope, (0, t[-1]), self.start(rng), "DOP853", t, rtol=1e-8, atol=1e-10)
            assert motion.success
            found.append(motion.y.T)
        return rng, t, found, None if self.drive is None else [self.drive(t)[:, None]] * self.runs


def _box(low: float, high: float, states: int) -> Callable[[np.random.Generator], Point]:
    return lambda rng: rng.uniform(low, high, states)


def _disc(rng: np.random.Generator) -> Point:
    radius, angle = rng.uniform(0.05, 2), rng.uniform(0, 2 * np.pi)
    return radius * np.cos(angle), radius * np.sin(angle)


def _chain(_: float, s: Point) -> Sequence[float]:
    """Three bodies in a row between two walls, on springs of force d + CHAIN d^2 (Fermi, Pasta, Ulam and Tsingou)."""
    at = [0.0, s[0], s[1], s[2], 0.0]
    force = [b - a + CHAIN * (b - a) ** 2 for a, b in pairwise(at)]
    return [*s[3:], *(right - left for left, right in pairwise(force))]


def _hopf(_: float, s: Point) -> Sequence[float]:
    pull = s[0] ** 2 + s[1] ** 2
    return [s[0] - 2 * s[1] - s[0] * pull, 2 * s[0] + s[1] - s[1] * pull]


SYSTEMS: dict[str, System] = {
    "Lorenz": System(
        ("x", "y", "z"),
        lambda _, s: [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]],
        (("x", "y"), ("x", "y", "x z"), ("x y", "z")),
        QUADRATIC,
        _box(-10, 10, 3),
        step=0.005,
        runs=1,
        samples=5_000,
        before=5,
    ),
    "Roessler": System(
        ("x", "y", "z"),
        lambda _, s: [-s[1] - s[2], s[0] + 0.2 * s[1], 0.2 + s[2] * (s[0] - 5.7)],
        (("y", "z"), ("x", "y"), ("1", "z", "x z")),
        QUADRATIC,
        _box(-3, 3, 3),
        step=0.02,
        runs=1,
        samples=5_000,
        before=50,
    ),
    "van der Pol": System(
        ("x", "y"),
        lambda _, s: [s[1], 2 * (1 - s[0] ** 2) * s[1] - s[0]],
        (("y",), ("x", "y", "x^2 y")),
        CUBIC,
        _box(-3, 3, 2),
        step=0.01,
    ),
    "Duffing, driven": System(
        ("x", "v", "u"),
        lambda t, s: [s[1], -0.3 * s[1] + s[0] - s[0] ** 3 + 0.5 * np.cos(1.2 * t)],
        (("v",), ("x", "v", "x^3", "u")),
        CUBIC,
        _box(-1, 1, 2),
        step=0.02,
        runs=1,
        samples=5_000,
        drive=lambda t: 0.5 * np.cos(1.2 * t),
    ),
    "Lotka-Volterra": System(
        ("x", "y"),
        lambda _, s: [s[0] - 0.5 * s[0] * s[1], -s[1] + 0.5 * s[0] * s[1]],
        (("x", "x y"), ("y", "x y")),
        QUADRATIC,
        _box(0.5, 4, 2),
        step=0.02,
    ),
    "Hopf": System(
        ("x", "y"), _hopf, (("x", "y", "x^3", "x y^2"), ("x", "y", "x^2 y", "y^3")), CUBIC, _disc, step=0.005
    ),
    "pendulum, damped": System(
        ("a", "w"),
        lambda _, s: [s[1], -np.sin(s[0]) - 0.1 * s[1]],
        (("w",), ("w", "sin(a)")),
        CUBIC + Fourier(1, of=(0,)),
        lambda rng: (rng.uniform(-2.8, 2.8), rng.uniform(-1, 1)),
        step=0.02,
    ),
    "double well, damped": System(
        ("x", "v"),
        lambda _, s: [s[1], s[0] - s[0] ** 3 - 0.1 * s[1]],
        (("v",), ("x", "v", "x^3")),
        CUBIC,
        _box(-2, 2, 2),
        step=0.02,
    ),
    "SEIR": System(
        ("s", "e", "i"),
        lambda _, s: [-1.5 * s[0] * s[2], 1.5 * s[0] * s[2] - 0.5 * s[1], 0.5 * s[1] - 0.3 * s[2]],
        (("s i",), ("e", "s i"), ("e", "i")),
        QUADRATIC,
        lambda rng: (rng.uniform(0.5, 1), rng.uniform(0, 0.3), rng.uniform(0, 0.3)),
        step=0.02,
        runs=10,
        samples=500,
    ),
    "three-body chain": System(
        ("x", "y", "z", "p", "q", "r"),
        _chain,
        (
            ("p",),
            ("q",),
            ("r",),
            ("x", "y", "y^2", "x y"),
            ("x", "y", "z", "z^2", "y z", "x y", "x^2"),
            ("y", "z", "y z", "y^2"),
        ),
        QUADRATIC,
        _box(-1, 1, 6),
        step=0.02,
    ),
}
