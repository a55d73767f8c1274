"""Fits libraries to series: chooses one that explains each state, notes failures, and picks among equivalent equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from cloche.errors import NotFinite, NotSolved, SeriesInvalid, SettingRange
from cloche.sparse.sindy.dependence import EquivalentForms, dependence_note, relations
from cloche.sparse.sindy.equation import Equation, equation, evaluated
from cloche.sparse.sindy.library import Array, Library, Polynomials, term_count
from cloche.sparse.sindy.model import written
from cloche.sparse.sindy.regression import Noise, Rows
from cloche.sparse.sindy.selection import Selector, solve
from cloche.sparse.sindy.series import Series, timescale
from cloche.sparse.sindy.weak import Form

_MOST_TERMS = 2_000
_MOST_UNASKED = 300  # terms of a library that is tried without being asked for
_LARGEST_DEGREE = 3  # of the polynomials tried without being asked for
_HALF = 0.5  # of the misfit: a larger library that is not adequate either is taken only if it removes this share
_SHOWN = 2  # equivalent forms of an equation shown in a note


@dataclass(frozen=True, eq=False)
class Candidate:
    """One state's equation in the terms of a library."""

    state: str
    library: Library
    terms: tuple[str, ...]
    equation: Equation

    @property
    def name(self) -> str:
        library = self.library
        return f"Polynomials({library.degree})" if isinstance(library, Polynomials) else "this library"

    def text(self, coefficients: Array | None = None) -> str:
        return f"{self.state}' = {written(self.terms, self.equation.coefficients if coefficients is None else coefficients, 3)}"


@dataclass(frozen=True, eq=False)
class Search:
    """Series and their windows, to which libraries are fitted."""

    series: Sequence[Series]
    windows: Sequence[tuple[csr_array, csr_array, Array]]  # (V, D, D D^T) of each trajectory
    noise: Noise
    names: tuple[tuple[str, ...], tuple[str, ...]]
    selector: Selector

    @classmethod
    def over(
        cls,
        series: Sequence[Series],
        noise: Noise,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        form: Form,
        selector: Selector,
    ) -> Search:
        timescales = timescale(series, noise.assumed)
        radii = [form.radius_for([one], timescales) for one in series]
        windows = [form.matrices(one, radius) for one, radius in zip(series, radii, strict=True)]
        count = sum(V.shape[0] for V, _ in windows)
        if count < 4:
            raise SeriesInvalid(
                f"Only {count} test functions of radius {max(radii):.4g} fit into the series: measure longer, or choose a "
                "smaller radius."
            )
        return cls(series, [(V, D, (D @ D.T).toarray()) for V, D in windows], noise, names, selector)

    def choose(self, library: Library | None) -> tuple[list[Candidate], list[str]]:
        """(Each state's equation in the library, or in the smaller of two that explains it; notes).

        If a library fails, a larger one is tried: used if the choice was left open, and otherwise only suggested.
        """
        asked = Polynomials() if library is None else library
        found = self.fit(asked, range(len(self.names[0])))
        failed = [d for d, one in enumerate(found) if not one.equation.adequate]
        larger = self._larger(asked) if failed else None
        tried = dict(zip(failed, self.fit(larger, failed), strict=True)) if larger else {}
        notes = []
        for d in failed:
            second = tried.get(d)
            if library is None and second is not None and _better(second.equation, found[d].equation):
                if second.equation.adequate:
                    notes.append(
                        f"{second.state}': {found[d].name} cannot explain the data, so {second.name} was used."
                    )
                found[d], second = second, None
            if not found[d].equation.adequate:
                notes.append(_failure(found[d], second))
        return found, notes

    def fit(self, library: Library, states: Sequence[int]) -> list[Candidate]:
        """Equations of the states with these indices, in the library's terms."""
        terms = tuple(library.names([*self.names[0], *self.names[1]]))
        _check_terms(terms)
        rows, matrix = self._rows(library)
        return [
            Candidate(self.names[0][d], library, terms, equation(rows, d, self.noise, matrix, self.selector))
            for d in states
        ]

    def resolve(self, chosen: list[Candidate]) -> list[str]:
        """If terms are dependent, replaces equations with their preferred equivalents; returns notes on the alternatives."""
        notes, known = [], {}
        for d, candidate in enumerate(chosen):
            if candidate.terms not in known:
                known[candidate.terms] = relations(candidate.equation.problem, candidate.terms)
                if known[candidate.terms]:
                    notes.append(dependence_note(known[candidate.terms], candidate.terms))
            found = candidate.equation
            if not found.adequate:
                continue  # no form of an inadequate equation is better than another
            forms = EquivalentForms.of(found)
            support = forms.preferred(found.support, candidate.state, candidate.terms)
            if support != found.support:
                chosen[d] = replace(candidate, equation=evaluated(found.problem, solve(found.problem, support)))
            others = forms.beside(support)
            if others:
                shown = " or ".join(candidate.text(solve(found.problem, form)) for form in others[:_SHOWN])
                notes.append(f"The data cannot distinguish {chosen[d].text()} from {shown}.")
        return notes

    def _rows(self, library: Library) -> tuple[list[Rows], Array]:
        """(each trajectory's rows in a basis of the terms, the matrix [basis, terms] that gives the terms from it)."""
        noise = np.concatenate([self.noise.measured, np.zeros(self.series[0].u.shape[1])])
        points = np.concatenate([one.variables for one in self.series])
        centre, spread = points.mean(0), points.std(0)
        scale = np.where(spread > 0, spread, np.where(centre != 0, np.abs(centre), 1.0))
        basis, matrix = library.centred(centre, scale)
        rows = []
        for one, (V, D, DD) in zip(self.series, self.windows, strict=True):
            if V.shape[0]:
                terms, slopes = basis.unbiased(one.variables, noise), basis.gradient(one.variables)
                if not (np.isfinite(terms).all() and np.isfinite(slopes).all()):
                    raise NotFinite("A term of the library is NaN or infinite on this series: leave it out.")
                rows.append(Rows(V, D, V @ terms, -(D @ one.x), slopes, DD))
        return rows, matrix

    def _larger(self, library: Library) -> Library | None:
        """Polynomials of the largest degree tried without being asked, unless the library contains them or they are too
        many."""
        variables = len(self.names[0]) + len(self.names[1])
        if isinstance(library, Polynomials) and library.degree >= _LARGEST_DEGREE:
            return None
        within = term_count(variables, _LARGEST_DEGREE) <= _MOST_UNASKED
        return Polynomials(_LARGEST_DEGREE) if within else None


def _better(new: Equation, old: Equation) -> bool:
    return new.adequate or new.misfit < _HALF * old.misfit


def _failure(candidate: Candidate, second: Candidate | None) -> str:
    """Note on an equation whose residual is more than noise; `second` is that of a larger library, if one was tried."""
    found = candidate.equation
    text = (
        f"{candidate.state}': {candidate.name} cannot explain the data: the residual variance is {found.misfit:.3g} times "
        "that of the noise, so do not trust the "
        f"equation{f', although it explains {found.explained:.1%} of the derivative' if found.support else ''}."
    )
    if second is not None and second.equation.adequate:
        return f"{text} Try {second.name}: {second.text()} explains the data."
    return (
        f"{text} {f'{second.name} cannot either. ' if second is not None else ''}Try terms of another kind, or more states "
        "or inputs: something unmeasured may drive the state."
    )


def _check_terms(terms: Sequence[str]) -> None:
    twice = sorted({name for name in terms if terms.count(name) > 1})
    if twice:
        raise NotSolved(
            f"The library contains {twice[0]!r} more than once, so its coefficient is undetermined: keep one of them."
        )
    if len(terms) > _MOST_TERMS:
        raise SettingRange(f"The library has {len(terms):,} terms, more than {_MOST_TERMS:,}: choose a smaller degree.")
