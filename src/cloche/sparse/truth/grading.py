"""Grading of an encoder against the true code: recovery of the atoms and of their supports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SignalsShape
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, Encoder
from cloche.sparse.truth.assignment import match

_ROWS = 2_048


@dataclass(frozen=True, eq=False)
class Grade:
    """Result of `grade`. Learned and true atoms are matched one to one.

    >>> import torch
    >>> from cloche.sparse import Grade
    >>> found = Grade(torch.tensor([3, -1]), torch.tensor([0.9, 0.0]), torch.tensor([0.8, torch.nan]), shrinkage=1.0)
    >>> round(found.cosine, 3), round(found.f1, 3)
    (0.45, 0.8)
    """

    partner: Tensor  # [M] the learned atom of each true one; -1 if there were too few
    cosines: Tensor  # [M] cosine with the partner; 0 if there is none
    f1s: Tensor  # [M] F1 of the two supports; NaN if the true atom is never used
    shrinkage: float  # least-squares slope of found on true coefficients where both are active; 1 is no shrinkage

    @property
    def cosine(self) -> float:
        """Mean cosine of the true atoms with their partners."""
        return float(self.cosines.mean())

    @property
    def f1(self) -> float:
        """Mean F1 of the true atoms that are used."""
        return float(self.f1s.nanmean())


@torch.no_grad()
def grade(encoder: Encoder, dictionary: Dictionary, x: Tensor, truth: Dictionary, code: Code) -> Grade:
    """Grades the codes that `encoder` finds for signals `x` [n, d] against the true dictionary and `code`.

    >>> from cloche.sparse import Dictionary, SyntheticFeatures, grade
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=8, features=12, active=1)
    >>> x, code = data.sample(200)
    >>> shuffled = Dictionary(data.dictionary.atoms.flip(0))
    >>> found = grade(OMP(k=1).over(shuffled), shuffled, x, data.dictionary, code)
    >>> found.partner.tolist()[:3], round(found.cosine, 3), round(found.f1, 3)
    ([11, 10, 9], 1.0, 1.0)
    """
    if len(code) != len(x) or code.size != truth.size or truth.width != dictionary.width:
        raise SignalsShape(
            f"{len(x):,} signals of width {dictionary.width} cannot be graded by a code of {len(code):,} over {code.size:,} "
            f"atoms and a truth of {truth.size:,} atoms of width {truth.width}: give the code that made them, and its atoms."
        )
    partner, cosines = match(truth, dictionary)
    both, wanted, found = (torch.zeros(truth.size, dtype=torch.float64) for _ in range(3))
    products = squares = 0.0
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        given = Code(code.indices[rows], code.values[rows], code.size).dense().double()
        seen = encoder.encode(x[rows]).dense().double()[:, partner.clamp(min=0)] * (partner >= 0)
        hit = (given != 0) & (seen != 0)
        both += hit.sum(0)
        wanted += (given != 0).sum(0)
        found += (seen != 0).sum(0)
        products += float((seen * given)[hit].sum())
        squares += float(given[hit].square().sum())
    f1s = torch.where(wanted > 0, 2 * both / (wanted + found), torch.nan)
    return Grade(partner, cosines, f1s, products / squares if squares else float("nan"))
