"""An encoder against the code that really made the signals: are its atoms the true ones, and active where they should be?"""

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
    """What `grade` found. Every true atom has at most one partner, every learned atom serves at most one."""

    partner: Tensor  # [M] the learned atom of each true one, -1 where there were too few
    cosines: Tensor  # [M] with it; 0 where there is none
    f1s: Tensor  # [M] of the supports of the two; NaN where the true atom is never used
    shrinkage: float  # least-squares slope of the found amounts on the true ones, where both are active: 1 is none

    @property
    def cosine(self) -> float:
        """Mean cosine of the true atoms to their partners."""
        return float(self.cosines.mean())

    @property
    def f1(self) -> float:
        """Mean F1 of the true atoms that are used."""
        return float(self.f1s.nanmean())


@torch.no_grad()
def grade(encoder: Encoder, dictionary: Dictionary, x: Tensor, truth: Dictionary, code: Code) -> Grade:
    """Grades what `encoder` makes of signals `x` [n, d] against the `truth` and the `code` that made them."""
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
