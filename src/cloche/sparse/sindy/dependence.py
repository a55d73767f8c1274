"""Terms that say the same on a series: the relations between them, and the equations that are equal because of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloche.sparse.sindy.equation import Equation
from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.model import written
from cloche.sparse.sindy.regression import LEAST_SIGNAL, Regression
from cloche.sparse.sindy.selection import Normal

_VANISHES = 0.05  # of the terms of a relation: what is left where they cancel
_INDISTINGUISHABLE = 4.0  # of chi squared: forms nearer than two standard deviations are equally likely
_MOST_TERMS = 60  # among which relations are looked for, low degrees first
_MOST_RELATIONS = 3  # that are written out
_ROUNDING = 1e-18  # of the square of what a term varies: what is left is rounding


@dataclass(frozen=True)
class Relation:
    """`term` equals the sum of `amounts` times the terms `others`, to within the noise."""

    term: int
    others: tuple[int, ...]
    amounts: tuple[float, ...]

    def text(self, names: Sequence[str]) -> str:
        return f"{names[self.term]} = {written([names[j] for j in self.others], self.amounts, 3)}"


def relations(problem: Regression, names: Sequence[str]) -> list[Relation]:
    """Terms that are a sum of earlier ones to within the noise, in the order of the library."""
    if problem.told == problem.terms.shape[1]:
        return []
    size = np.linalg.norm(problem.terms, axis=0)
    scale = np.where(size > 0, size, 1.0)
    seen = _Columns(
        problem.terms / scale, problem.basis / scale, problem.noise, names.index("1") if "1" in names else None
    )
    free: list[int] = []
    found: list[Relation] = []
    for j in np.flatnonzero(size[:_MOST_TERMS] > 0).tolist():
        made = seen.made_of(j, free)
        if made is None:
            free.append(j)
        else:
            others, amounts = made
            found.append(Relation(j, tuple(others), tuple((amounts * size[j] / size[others]).tolist())))
    return found


@dataclass(frozen=True, eq=False)
class _Columns:
    """The terms, each of size one: `columns` [directions, terms], and `basis` [basis, terms], in which the `noise` is known."""

    columns: Array
    basis: Array
    noise: Array
    constant: int | None

    def made_of(self, j: int, free: list[int]) -> tuple[list[int], Array] | None:
        """(The fewest of the `free` columns that make column j, how much of each), or None where they do not."""
        chosen, amounts = list(free), self._fit(j, free)
        if not chosen or not self._vanishes(j, chosen, amounts):
            return None
        for out in sorted(chosen, reverse=True):
            rest = [k for k in chosen if k != out]
            fewer = self._fit(j, rest)
            if rest and self._vanishes(j, rest, fewer):
                chosen, amounts = rest, fewer
        return chosen, amounts

    def _fit(self, j: int, chosen: list[int]) -> Array:
        return np.linalg.lstsq(self.columns[:, chosen], self.columns[:, j], rcond=1e-12)[0]

    def _vanishes(self, j: int, chosen: list[int], amounts: Array) -> bool:
        """Whether what the chosen leave of column j is little beside how much it varies, and no more than noise."""
        left = self.columns[:, j] - self.columns[:, chosen] @ amounts
        varies = self.columns[:, j].copy()
        if self.constant is not None:
            still = self.columns[:, self.constant]
            varies -= still * (still @ varies)
        size, full = float(left @ left), float(varies @ varies)
        if size > _VANISHES**2 * full:
            return False
        if size < _ROUNDING * full:
            return True
        made = self.basis[:, j] - self.basis[:, chosen] @ amounts
        return size - float(made @ self.noise @ made) < LEAST_SIGNAL * size


@dataclass(frozen=True, eq=False)
class Forms:
    """The forms of one equation, of one size, that the series cannot tell apart.

    `least` is by how much a form must lower chi squared to be one of them.
    """

    normal: Normal
    least: float

    @classmethod
    def of(cls, found: Equation) -> Forms:
        normal = Normal.of(found.problem)
        best = normal.gains(found.support)[1]
        return cls(normal, best - _INDISTINGUISHABLE * max(1.0, found.misfit))

    def beside(self, support: Sequence[int]) -> list[list[int]]:
        """Those that differ from the support in one term."""
        others = []
        for out in support:
            rest = [j for j in support if j != out]
            gain, base = self.normal.gains(rest)
            others += [
                sorted([*rest, j]) for j in np.flatnonzero(base + gain >= self.least).tolist() if j not in support
            ]
        return others

    def preferred(self, support: list[int], own: str, names: Sequence[str]) -> list[int]:
        """The one in the state itself, and else in the library's earlier terms, that exchanges one by one lead to."""

        def rank(form: list[int]) -> tuple[int, ...]:
            return (sum(names[j] != own for j in form), *sorted(form, reverse=True))

        while True:
            best = min([support, *self.beside(support)], key=rank)
            if best == support:
                return support
            support = best


def sentence(found: Sequence[Relation], names: Sequence[str]) -> str:
    """What the user is told of dependent terms."""
    shown = "; ".join(relation.text(names) for relation in found[:_MOST_RELATIONS])
    more = len(found) - _MOST_RELATIONS
    return (
        f"The terms are dependent on this series, to within its noise: {shown}{f'; and {more} more' if more > 0 else ''}. The "
        "equations are one of many equal forms; those of the fewest terms are given."
    )
