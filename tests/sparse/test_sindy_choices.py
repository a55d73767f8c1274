"""Every way to choose terms, and the strong form, on series with little noise; and what they refuse."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from cloche.errors import ClocheError
from cloche.sparse.sindy import SR3, STLSQ, ForwardBackward, Greedy, Model, Polynomials, SINDy, Stable, Strong, Weak

TRUTH = [{"y": 1.0}, {"x": -1.0, "y": 2.0, "x^2 y": -2.0}]  # van der Pol's oscillator


@cache
def oscillator() -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    t = np.arange(0, 12, 0.02)
    found = []
    for start in ([0.2, 0.1], [3.0, -2.0], [-2.0, 3.0]):
        slope = lambda _, s: [s[1], 2 * (1 - s[0] ** 2) * s[1] - s[0]]  # noqa: E731
        found.append(solve_ivp(slope, (0, t[-1]), start, t_eval=t, rtol=1e-9, atol=1e-9).y.T)
    return tuple(found), t


def measured(noise: float, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    clean, t = oscillator()
    rng, spread = np.random.default_rng(seed), np.concatenate(clean).std(0)
    return [x + noise * spread * rng.standard_normal(x.shape) for x in clean], [t] * len(clean)


def coefficients(model: Model) -> list[dict[str, float]]:
    return [{model.terms[j]: w[j] for j in np.flatnonzero(w)} for w in model.coefficients.T]


def assert_found(model: Model, close: float) -> None:
    for found, truth in zip(coefficients(model), TRUTH, strict=True):
        assert found.keys() == truth.keys()
        assert all(abs(found[name] - truth[name]) < close for name in truth)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(
    "selector",
    [ForwardBackward(), STLSQ(), STLSQ(threshold=0.3), SR3(), Stable(resamples=10)],
    ids=lambda value: type(value).__name__,
)
def test_every_selector_finds_the_oscillator(selector, noise: float) -> None:
    x, t = measured(noise)
    model = SINDy(library=Polynomials(3), selector=selector, resamples=0).fit(x, t, states=("x", "y"))
    assert_found(model, 0.15 if noise else 0.01)


def test_plain_greed_finds_all_terms_and_keeps_what_stood_in_for_them() -> None:
    x, t = measured(0.05)
    model = SINDy(library=Polynomials(3), selector=Greedy(), resamples=0).fit(x, t, states=("x", "y"))
    found = coefficients(model)
    assert found[0].keys() == TRUTH[0].keys()
    assert found[1].keys() >= TRUTH[1].keys() and len(found[1]) < 9


def test_the_strong_form_finds_it_with_little_noise() -> None:
    x, t = measured(0.01)
    assert_found(SINDy(Polynomials(3), Strong(), resamples=0).fit(x, t, states=("x", "y")), 0.1)
    rng = np.random.default_rng(0)
    chosen = [np.sort(rng.choice(600, 400, replace=False)) for _ in x]
    uneven = SINDy(Polynomials(3), Strong(), resamples=0).fit(
        [a[i] for a, i in zip(x, chosen, strict=True)],
        [a[i] for a, i in zip(t, chosen, strict=True)],
        states=("x", "y"),
    )
    assert_found(uneven, 0.1)


def test_the_strong_form_is_exact_on_cubics() -> None:
    from cloche.sparse.sindy.series import read

    t = np.sort(np.random.default_rng(0).uniform(0, 4, 200))
    (one,) = read(t**3 - 2 * t, t)
    form = Strong(radius=0.6)
    V, D = form.matrices(one, 0.6)
    centres = V @ t
    assert np.allclose(-(D @ one.x[:, 0]), 3 * centres**2 - 2, atol=1e-8)


def test_taking_the_noise_off_the_moments_takes_the_bias_off() -> None:
    """x' = -x sampled as seldom as its windows allow, with much noise: least squares shrinks the rate, the moments do not."""
    from cloche.sparse.sindy.regression import Noise, Rows, regression
    from cloche.sparse.sindy.selection import solve
    from cloche.sparse.sindy.series import read

    library, noise, plain, corrected = Polynomials(1, constant=False), np.array([0.5]), [], []
    t = np.arange(0, 3, 0.1)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        parts = []
        for one in read([np.exp(-t) + 0.5 * rng.standard_normal(len(t)) for _ in range(20)], [t] * 20):
            V, D = Weak().matrices(one, 1.2)
            G = V @ library.unbiased(one.x, noise)
            parts.append(Rows(V, D, G, -(D @ one.x), library.gradient(one.x), (D @ D.T).toarray()))
        problem = regression(parts, 0, np.array([-1.0]), Noise(noise, noise), np.eye(1))
        term = problem.rows @ problem.terms[:, 0]
        plain.append(term @ problem.target / (term @ term))
        corrected.append(solve(problem, [0])[0])
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert abs(np.mean(corrected) + 1) < 3 * error
    assert abs(np.mean(plain) + 1) > 3 * error


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = []
    for seed in range(12):
        x, t = measured(0.1, seed)
        model = SINDy(library=Polynomials(3), resamples=1).fit(x, t, states=("x", "y"))
        for d, truth in enumerate(TRUTH):
            for name, amount in truth.items():
                low, high = model.intervals[model.terms.index(name), d]
                held.append(low <= amount <= high)
    assert 0.75 <= np.mean(held) <= 1.0


def test_a_random_walk_is_not_explained() -> None:
    """Its steps are noise that moves the state: what is found, if anything, must not claim to explain it."""
    confident = 0
    for seed in range(10):
        walk = np.random.default_rng(seed).standard_normal((500, 2)).cumsum(0)
        model = SINDy(resamples=0).fit(walk, 0.1)
        confident += int(((model.coefficients != 0).any(0) & (model.explained > 0.9)).sum())
    assert confident == 0


def test_bad_settings_are_refused() -> None:
    for make in (
        lambda: STLSQ(threshold=-1),
        lambda: SR3(penalty=0),
        lambda: Stable(resamples=1),
        lambda: Strong(degree=0),
        lambda: Weak(radius=-1.0),
        lambda: Weak(stride=0),
    ):
        with pytest.raises(ClocheError):
            make()
