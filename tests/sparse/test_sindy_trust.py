"""SINDy's notes on equations that cannot be trusted: dependent terms, far offsets, libraries too small, walks, odd input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from cloche.cli import main
from cloche.errors import ClocheError
from cloche.sparse.sindy import Fourier, Library, Model, Polynomials, Products, SINDy

T = np.arange(0, 20, 0.02)


def motion(slope: Any, start: list[float], t: np.ndarray = T) -> np.ndarray:
    return solve_ivp(slope, (t[0], t[-1]), start, t_eval=t, rtol=1e-9, atol=1e-11).y.T


def noisy(x: np.ndarray, share: float, seed: int) -> np.ndarray:
    return x + share * x.std(0) * np.random.default_rng(seed).standard_normal(x.shape)


def supports(model: Model) -> list[set[str]]:
    return [{model.terms[j] for j in np.flatnonzero(w)} for w in model.coefficients.T]


OSCILLATOR = motion(lambda _, s: [s[1], -s[0] - 0.1 * s[1]], [1.0, 0.0])
PREY = motion(lambda _, s: [s[0] - 0.5 * s[0] * s[1], -s[1] + 0.5 * s[0] * s[1]], [1.0, 1.0])
BRUSSELATOR = motion(lambda _, s: [1 + s[0] ** 2 * s[1] - 4 * s[0], 3 * s[0] - s[0] ** 2 * s[1]], [1.0, 1.0])


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-4, 1e-3, 1e-2])
def test_states_that_sum_to_one_give_one_term_equations_and_a_note_on_dependence(degree: int, noise: float) -> None:
    t = np.linspace(0, 5, 400)
    a = np.exp(-t)
    for seed in range(2):
        model = SINDy(Polynomials(degree), resamples=0).fit(noisy(np.stack([a, 1 - a], 1), noise, seed), t)
        assert supports(model) == [{"x0"}, {"x0"}]
        assert any("dependent" in note and "x1 = 1 - 1 x0" in note for note in model.notes) or noise > 1e-3
        free = SINDy(Polynomials(degree), resamples=0).fit(noisy(np.stack([a, np.exp(-0.3 * t)], 1), noise, seed), t)
        assert supports(free) == [{"x0"}, {"x1"}]
        assert not any("x1 =" in note for note in free.notes)


def test_a_chain_of_reactions_and_forms_that_equal_each_other() -> None:
    t = np.linspace(0, 8, 500)
    chain = motion(lambda _, s: [-s[0], s[0] - 0.5 * s[1], 0.5 * s[1]], [1.0, 0.0, 0.0], t)
    for noise in (1e-6, 1e-3):
        assert supports(SINDy(resamples=0).fit(noisy(chain, noise, 0), t)) == [{"x0"}, {"x0", "x1"}, {"x1"}]
    back = motion(lambda _, s: [-s[0] + 0.5 * s[1], s[0] - 0.5 * s[1]], [1.0, 0.0], t)
    model = SINDy(Polynomials(1), resamples=0).fit(noisy(back, 1e-3, 0), t)
    assert [len(terms) for terms in supports(model)] == [2, 2]
    assert sum("cannot distinguish" in note for note in model.notes) == 2


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize(
    ("x", "t", "degree", "truth"),
    [
        (OSCILLATOR * [10, 2000] + [300, 1e5], T * 1000, 2, [{"1", "x1"}, {"1", "x0", "x1"}]),
        (OSCILLATOR * 10 + 1e5, T, 3, [{"1", "x1"}, {"1", "x0", "x1"}]),
        (PREY * [1e12, 1e-12], T * 1e9, 3, [{"x0", "x0 x1"}, {"x1", "x0 x1"}]),
        (PREY * 1e-12, T * 1e-12 + 1, 2, [{"x0", "x0 x1"}, {"x1", "x0 x1"}]),
    ],
    ids=["kelvin and pascal", "ten pascal about 1e5", "prey in 1e12, hunters in 1e-12", "all in 1e-12"],
)
def test_offsets_and_units(x: np.ndarray, t: np.ndarray, degree: int, truth: list[set[str]], noise: float) -> None:
    model = SINDy(Polynomials(degree), resamples=0).fit(noisy(x, noise, 0), t)
    assert supports(model) == truth and model.adequate.all()


def test_powers_of_a_far_offset_are_exact_in_the_centred_basis() -> None:
    library: Library = Polynomials(3, constant=False) + Fourier(1)
    library = library + Products(Polynomials(1, constant=False), Fourier(1, of=(0,)))
    x = np.random.default_rng(0).standard_normal((50, 2)) * [1.0, 3.0] + [40.0, -7.0]
    basis, matrix = library.centred(x.mean(0), x.std(0))
    assert np.allclose(basis.values(x) @ matrix, library.values(x), rtol=1e-10)
    assert np.allclose(basis.gradient(x) @ matrix, library.gradient(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("noise", [1e-3, 0.05])
def test_a_library_too_small_is_noted_and_a_larger_one_used_unless_it_was_chosen(noise: float) -> None:
    x = noisy(BRUSSELATOR, noise, 0)
    chosen = SINDy(Polynomials(2), resamples=0).fit(x, T)
    assert not chosen.adequate.any() and (chosen.misfit > 10).all() and chosen.explained.max() > 0.9
    for state in chosen.states:
        assert any(
            note.startswith(f"{state}': Polynomials(2) cannot") and "Try Polynomials(3)" in note
            for note in chosen.notes
        )
    model = SINDy(resamples=0).fit(x, T)
    assert supports(model) == [{"1", "x0", "x0^2 x1"}, {"x0", "x0^2 x1"}]
    assert model.adequate.all() and "Polynomials(3) was used" in str(model)


def test_equations_that_a_small_library_explains_stay_in_it_and_no_library_may_do() -> None:
    t = np.arange(0, 20, 0.02)
    x = noisy(motion(lambda _, s: [s[1], -np.sin(s[0]) - 0.1 * s[1]], [2.5, 0.0], t), 0.01, 0)
    model = SINDy(resamples=0).fit(x, t, states=("a", "w"))
    assert supports(model)[0] == {"w"} and model.adequate.tolist() == [True, False]
    assert any(note.startswith("w'") and "terms of another kind" in note for note in model.notes)
    full = SINDy(Polynomials(3) + Fourier(1, of=(0,)), resamples=0).fit(x, t, states=("a", "w"))
    assert full.adequate.all() and supports(full)[1] == {"w", "sin(a)"}


@pytest.mark.parametrize("sums", [1, 2, 3])
def test_walks_and_their_integrals_get_no_equation_without_a_warning(sums: int) -> None:
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((400, 2))
        for _ in range(sums):
            x = x.cumsum(0)
        model = SINDy(resamples=0).fit(x, 0.1)
        assert not model.adequate.any()
        assert all(any(note.startswith(f"{state}':") for note in model.notes) for state in model.states)


CIRCLE = np.stack([np.sin(T), np.cos(T)], 1)
SPOILT = np.where((np.arange(len(T)) // 20 == 10)[:, None], 1e9, CIRCLE)
MASKED = np.ma.array(SPOILT, mask=SPOILT > 1e8)
COARSE = np.arange(0, 20, 0.1)


@pytest.mark.parametrize(
    ("x", "t"),
    [
        ([CIRCLE, CIRCLE[:300]], [T, T[:300]]),
        ((CIRCLE.tolist(), CIRCLE[:300].tolist()), (T.tolist(), T[:300].tolist())),
        ([CIRCLE, CIRCLE[:20]], 0.02),
        ([CIRCLE, np.stack([np.sin(COARSE), np.cos(COARSE)], 1)], [0.02, 0.1]),
        (CIRCLE.tolist(), T.tolist()),
        (list(CIRCLE), list(T)),
        (np.round(1e3 * CIRCLE).astype(int), T),
        (CIRCLE.astype(np.float32), T.astype(np.float32)),
        (CIRCLE.astype(object), T[:, None]),
        (np.asfortranarray(CIRCLE), T + 1.7e9),
        (MASKED, T),
        ([MASKED, CIRCLE[:300]], [T, T[:300]]),
        (CIRCLE, np.ma.array(T, mask=np.arange(len(T)) == 5)),
    ],
    ids=[
        *(
            "unequal lengths",
            "lists of lists of lists",
            "one short",
            "two steps",
            "list of lists",
            "list of rows",
            "integers",
        ),
        *("float32", "objects", "Fortran order and seconds since 1970", "masked", "masked trajectory", "masked time"),
    ],
)
def test_series_as_people_have_them(x: Any, t: Any) -> None:
    model = SINDy(resamples=0).fit(x, t)
    assert supports(model) == [{"x1"}, {"x0"}] and model.adequate.all()
    assert any("Masked" in note for note in model.notes) == (MASKED is x or x[0] is MASKED or np.ma.isMaskedArray(t))


@pytest.mark.parametrize(
    ("x", "t", "says"),
    [
        (CIRCLE + 0j, T, "other than numbers"),
        (CIRCLE, np.datetime64("2020-01-01") + np.arange(len(T)), "other than numbers"),
        (CIRCLE, "a", "other than numbers"),
        (CIRCLE, np.inf, "above zero"),
        (np.ma.array(CIRCLE, mask=True), T, "1000 of them masked"),
        (CIRCLE, np.where(T[4] == T, np.nan, T), "times t contain NaN"),
        ([CIRCLE, CIRCLE[:1]], 0.02, "trajectory 1 has 1 samples"),
        (np.column_stack([CIRCLE, np.full(len(T), 1e12)]), T, "State 2 never changes"),
    ],
)
def test_series_without_information_are_refused_in_a_sentence(x: Any, t: Any, says: str) -> None:
    with pytest.raises(ClocheError, match=says):
        SINDy().fit(x, t)


@pytest.mark.parametrize("third", [CIRCLE[:, 0], 1.8 * CIRCLE[:, 0] + 32], ids=["twice", "in other units"])
def test_a_state_measured_twice_is_said_to_be(third: np.ndarray) -> None:
    model = SINDy(Polynomials(1), resamples=0).fit(np.column_stack([CIRCLE, third]), T)
    assert supports(model) == [{"x1"}, {"x0"}, {"x1"}]
    assert any("x2 =" in note for note in model.notes)


def test_an_input_that_never_changes_is_the_constant_again() -> None:
    u = np.sin(1.7 * T)
    x = motion(lambda now, s: [-s[0] + 2 * np.sin(1.7 * now)], [1.0])
    model = SINDy(resamples=0).fit(noisy(x, 1e-3, 0), T, u=np.stack([u, np.full(len(T), 2.0)], 1), inputs=("u", "c"))
    assert supports(model) == [{"x", "u"}]
    assert any("c = 2" in note for note in model.notes)


def test_the_verb_prints_the_notes_and_has_them_in_json(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savetxt(tmp_path / "b.csv", np.column_stack([T, BRUSSELATOR])[::2], delimiter=",", header="t,x,y", comments="")
    said = []
    for words in (["--degree", "2"], ["--degree", "2", "--json"], ["--json"]):
        with pytest.raises(SystemExit) as end:
            main(["sindy", str(tmp_path / "b.csv"), *words])
        assert not end.value.code
        said.append(capsys.readouterr().out)
    assert "\nNote: x': Polynomials(2) cannot explain the data" in said[0]
    small, default = json.loads(said[1]), json.loads(said[2])
    assert small["states"]["x"]["adequate"] is False and "Try Polynomials(3)" in small["notes"][0]
    assert default["states"]["x"]["adequate"] is True and set(default["states"]["y"]["terms"]) == {"x", "x^2 y"}
