"""SINDy finds the equations a series was made with, says what it does not know, and refuses what cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from cloche.errors import ClocheError
from cloche.sparse.sindy import Custom, Fourier, Polynomials, Products, SINDy, Weak

LORENZ = {"x": {"x": -10.0, "y": 10.0}, "y": {"x": 28.0, "y": -1.0, "x z": -1.0}, "z": {"z": -8 / 3, "x y": 1.0}}


def lorenz(t: np.ndarray, start: tuple[float, float, float] = (1.0, 1.0, 20.0)) -> np.ndarray:
    def slope(_: float, s: np.ndarray) -> list[float]:
        return [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]]

    return solve_ivp(slope, (t[0], t[-1]), start, t_eval=t, rtol=1e-9, atol=1e-9).y.T


def noisy(x: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return x + share * x.std(0) * np.random.default_rng(seed).standard_normal(x.shape)


def table(model) -> dict[str, dict[str, float]]:
    return {
        state: {model.terms[j]: model.coefficients[j, d] for j in np.flatnonzero(model.coefficients[:, d])}
        for d, state in enumerate(model.states)
    }


def supports(model) -> dict[str, set[str]]:
    return {state: set(terms) for state, terms in table(model).items()}


@pytest.mark.parametrize(("share", "close"), [(0.0, 1e-3), (0.02, 0.02), (0.05, 0.05)])
def test_lorenz_from_one_noisy_trajectory(share: float, close: float) -> None:
    t = np.arange(0, 20, 0.005)
    x = noisy(lorenz(t), share, seed=1)
    model = SINDy().fit(x, t, states=("x", "y", "z"))
    assert supports(model) == {state: set(terms) for state, terms in LORENZ.items()}
    for state, terms in table(model).items():
        for name, amount in terms.items():
            assert abs(amount - LORENZ[state][name]) < close * max(abs(LORENZ[state][name]), 1)
    assert (model.explained > 0.97).all()
    if share:
        assert np.allclose(model.noise / x.std(0), share, rtol=0.1)


def test_the_printed_equations_and_the_simulated_motion() -> None:
    t = np.arange(0, 10, 0.005)
    clean = lorenz(t)
    model = SINDy().fit(noisy(clean, 0.01), t, states=("x", "y", "z"))
    text = str(model)
    assert text.startswith("x' = -") and "x z:" in text and "explains" in text
    moved = model.simulate(clean[0], t[:200])
    assert np.abs(moved - clean[:200]).max() < 0.05 * clean.std()
    assert np.allclose(model.rhs(clean[:5]), model.library.values(clean[:5]) @ model.coefficients)


def test_samples_at_uneven_times_and_several_trajectories() -> None:
    rng = np.random.default_rng(1)
    times = [np.sort(rng.uniform(0, 6, 1200)) for _ in range(2)]
    xs = [
        noisy(lorenz(t, start), 0.05, i)
        for i, (t, start) in enumerate(zip(times, [(1, 2, 20), (-8, 7, 27)], strict=True))
    ]
    model = SINDy(resamples=0).fit(xs, times, states=("x", "y", "z"))
    assert supports(model) == {state: set(terms) for state, terms in LORENZ.items()}


@pytest.mark.parametrize("even", [True, False])
def test_the_weak_form_is_integration_by_parts(even: bool) -> None:
    """-int phi' x = int phi x' for a wave, whose integrals are known to rounding or to the spline's order."""
    from cloche.sparse.sindy.series import read

    t = np.linspace(0, 10, 400) if even else np.sort(np.random.default_rng(0).uniform(0, 10, 400))
    (one,) = read(np.sin(2 * t), t)
    V, D = Weak().matrices(one, 1.5)
    assert V.shape[0] > 10
    assert np.allclose(-D @ np.sin(2 * t), V @ (2 * np.cos(2 * t)), atol=1e-9 if even else 2e-3)
    assert np.allclose(V.sum(1), 1, atol=1e-9 if even else 1e-3)


@pytest.mark.parametrize(
    "library", [Polynomials(4), Fourier(2), Products(Polynomials(1), Fourier(1, of=(0,))), Polynomials(1) + Fourier(1)]
)
def test_libraries_know_their_slopes_and_their_bias(library) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, (3, 2))
    for s in range(2):
        step = np.eye(2)[s] * 1e-6
        slope = (library.values(x + step) - library.values(x - step)) / 2e-6
        assert np.allclose(library.gradient(x)[s], slope, atol=1e-5)
    noise = np.array([0.2, 0.3])
    draws = rng.standard_normal((100_000, 2)) * noise
    for point in x:
        mean, clean = library.unbiased(point + draws, noise).mean(0), library.values(point[None])[0]
        raw = library.values(point + draws).mean(0)
        assert np.abs(mean - clean).max() < 0.02 + 0.2 * np.abs(raw - clean).max()
    assert len(library.names(["a", "b"])) == library.values(x).shape[1]


def test_own_functions_and_inputs() -> None:
    t = np.arange(0, 40, 0.02)
    u = np.cos(1.3 * t) + 0.5 * np.sin(0.7 * t)

    def slope(now: float, s: np.ndarray) -> list[float]:
        return [-abs(s[0]) * s[0] + 2 * (np.cos(1.3 * now) + 0.5 * np.sin(0.7 * now))]

    x = solve_ivp(slope, (0, t[-1]), [0.5], t_eval=t, rtol=1e-9, atol=1e-9).y.T
    drag = Custom((lambda x, u: np.abs(x) * x,), ("|{0}| {0}",))
    model = SINDy(library=Polynomials(2) + drag).fit(noisy(x, 0.05), t, u=u, states=("x",), inputs=("u",))
    assert supports(model) == {"x": {"u", "|x| x"}}
    assert np.allclose(model.coefficients[model.coefficients != 0], [2, -1], atol=0.05)
    low, high = model.intervals[model.terms.index("u"), 0]
    assert 1.95 < low < high < 2.05
    assert np.abs(model.simulate(x[0], t, u=u) - x).max() < 0.1


def test_noise_alone_has_no_equation() -> None:
    """White noise is no motion at all, and that is said."""
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((600, 2))
        with pytest.raises(ClocheError, match="mostly noise"):
            SINDy().fit(x, 0.1)


@pytest.mark.parametrize(
    ("x", "t", "says"),
    [
        (np.zeros((5, 2)), 0.1, "5 samples"),
        (np.stack([np.ones(100), np.arange(100)], 1), 0.1, "never changes"),
        (np.where(np.arange(100) == 7, np.nan, np.arange(100.0)), 0.1, "row 7"),
        (np.arange(100.0), np.zeros(100), "do not increase"),
        (np.arange(100.0), np.arange(99.0), r"\[99\]"),
        (np.arange(100.0), -1.0, "above zero"),
        (np.zeros((3, 4, 5)), 0.1, "shape"),
        (["a", "b"], 0.1, "other than numbers"),
        ([np.arange(50.0), np.arange(50.0)], [np.arange(50.0)], "list of 2"),
    ],
)
def test_bad_series_are_refused_in_a_sentence(x: object, t: object, says: str) -> None:
    with pytest.raises(ClocheError, match=says):
        SINDy().fit(x, t)


def test_bad_questions_are_refused_in_a_sentence() -> None:
    t = np.arange(0, 10, 0.1)
    x = np.stack([np.sin(t), np.cos(t)], 1)
    with pytest.raises(ClocheError, match="more than once"):
        SINDy(library=Polynomials(1) + Polynomials(2)).fit(x, t)
    with pytest.raises(ClocheError, match="test functions of radius"):
        SINDy(form=Weak(radius=20.0)).fit(x, t)
    with pytest.raises(ClocheError, match="degree"):
        Polynomials(40)
    with pytest.raises(ClocheError, match="2 columns"):
        SINDy().fit(x, t, states=("a",))
    grows = SINDy().fit(np.exp(t / 3), t, states=("x",))
    with pytest.raises(ClocheError, match="diverges near"):
        grows.simulate([1.0], np.linspace(0, 1e5, 10))
