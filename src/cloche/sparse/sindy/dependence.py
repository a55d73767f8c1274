"""Linear dependence between terms on a series, and the equations that it makes equivalent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloche.sparse.sindy.equation import Equation
from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.model import written
from cloche.sparse.sindy.regression import LEAST_SIGNAL, Regression
from cloche.sparse.sindy.selection import Normal

_VANISHES = 0.05  # of the size of a term: what may be left of it in a relation
_INDISTINGUISHABLE = 4.0  # of chi squared: forms within two standard deviations count as equally likely
_MOST_TERMS = 60  # relations are searched among the first of them, low degrees first
_MOST_RELATIONS = 3  # written out in a note
_ROUNDING = 1e-18  # of a term's variance: a smaller residual is rounding


@dataclass(frozen=True)
class Relation:
    """`term` equals the sum of `coefficients` times the terms `others`, to within the noise."""

    term: int
    others: tuple[int, ...]
    coefficients: tuple[float, ...]

    def text(self, names: Sequence[str]) -> str:
        return f"{names[self.term]} = {written([names[j] for j in self.others], self.coefficients, 3)}"


def relations(problem: Regression, names: Sequence[str]) -> list[Relation]:
    """Terms that are linear combinations of earlier ones to within the noise, in the order of the library."""
    if problem.known == problem.terms.shape[1]:
        return []
    size = np.linalg.norm(problem.terms, axis=0)
    scale = np.where(size > 0, size, 1.0)
    terms = _Columns(
        problem.terms / scale, problem.basis / scale, problem.noise, names.index("1") if "1" in names else None
    )
    free: list[int] = []
    found: list[Relation] = []
    for j in np.flatnonzero(size[:_MOST_TERMS] > 0).tolist():
        combination = terms.combination_for(j, free)
        if combination is None:
            free.append(j)
        else:
            others, coefficients = combination
            found.append(Relation(j, tuple(others), tuple((coefficients * size[j] / size[others]).tolist())))
    return found


@dataclass(frozen=True, eq=False)
class _Columns:
    """Normalised terms: `columns` [directions, terms], and `basis` [basis, terms], the basis in which `noise` is known."""

    columns: Array
    basis: Array
    noise: Array
    constant: int | None

    def combination_for(self, j: int, free: list[int]) -> tuple[list[int], Array] | None:
        """(Smallest subset of the `free` columns that gives column j, their coefficients), or None if they do not give it."""
        chosen, coefficients = list(free), self._fit(j, free)
        if not chosen or not self._vanishes(j, chosen, coefficients):
            return None
        for out in sorted(chosen, reverse=True):
            rest = [k for k in chosen if k != out]
            fewer = self._fit(j, rest)
            if rest and self._vanishes(j, rest, fewer):
                chosen, coefficients = rest, fewer
        return chosen, coefficients

    def _fit(self, j: int, chosen: list[int]) -> Array:
        return np.linalg.lstsq(self.columns[:, chosen], self.columns[:, j], rcond=1e-12)[0]

    def _vanishes(self, j: int, chosen: list[int], coefficients: Array) -> bool:
        """Whether the residual of column j is small beside the column's variation, and no more than noise."""
        left = self.columns[:, j] - self.columns[:, chosen] @ coefficients
        varies = self.columns[:, j].copy()
        if self.constant is not None:
            still = self.columns[:, self.constant]
            varies -= still * (still @ varies)
        size, full = float(left @ left), float(varies @ varies)
        if size > _VANISHES**2 * full:
            return False
        if size < _ROUNDING * full:
            return True
        made = self.basis[:, j] - self.basis[:, chosen] @ coefficients
        return size - float(made @ self.noise @ made) < LEAST_SIGNAL * size


@dataclass(frozen=True, eq=False)
class EquivalentForms:
    """Forms of one equation, with equally many terms, that the series cannot distinguish.

    `least` is the reduction of chi squared that a form needs to be one of them.
    """

    normal: Normal
    least: float

    @classmethod
    def of(cls, found: Equation) -> EquivalentForms:
        normal = Normal.of(found.problem)
        best = normal.gains(found.support)[1]
        return cls(normal, best - _INDISTINGUISHABLE * max(1.0, found.misfit))

    def beside(self, support: Sequence[int]) -> list[list[int]]:
        """Equivalent supports that differ from `support` in one term."""
        others = []
        for out in support:
            rest = [j for j in support if j != out]
            gain, base = self.normal.gains(rest)
            others += [
                sorted([*rest, j]) for j in np.flatnonzero(base + gain >= self.least).tolist() if j not in support
            ]
        return others

    def preferred(self, support: list[int], own: str, names: Sequence[str]) -> list[int]:
        """The equivalent support that repeated single exchanges lead to: preferably terms of the state itself, then earlier
        terms of the library."""

        def rank(form: list[int]) -> tuple[int, ...]:
            return (sum(names[j] != own for j in form), *sorted(form, reverse=True))

        while True:
            best = min([support, *self.beside(support)], key=rank)
            if best == support:
                return support
            support = best


def dependence_note(found: Sequence[Relation], names: Sequence[str]) -> str:
    """Note to the user about dependent terms."""
    shown = "; ".join(relation.text(names) for relation in found[:_MOST_RELATIONS])
    more = len(found) - _MOST_RELATIONS
    return (
        "The terms are linearly dependent on this series, to within its noise: "
        f"{shown}{f'; and {more} more' if more > 0 else ''}. The equations have many equivalent forms; those with the fewest "
        "terms are given."
    )
