"""Absorption: a feature is inactive where a more specific one is active (Chanin et al. 2024, 2409.14507)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import CorpusEmpty, SignalsShape
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Encoder

_ROWS = 2_048


@dataclass(frozen=True)
class Absorption:
    """Rates at which the partner of an active parent is inactive. Only their difference is absorption; the rest are misses.

    >>> from cloche.sparse.truth import Absorption
    >>> round(Absorption(with_child=0.4, without_child=0.1).rate, 3)
    0.3
    """

    with_child: float  # if a child and its partner are active too
    without_child: float  # if none of its children is active: the control

    @property
    def rate(self) -> float:
        """Share of missed parents attributable to children: 0 is no absorption, 1 is complete absorption."""
        return self.with_child - self.without_child


@torch.no_grad()
def absorption(encoder: Encoder, x: Tensor, code: Code, parent: Tensor, partner: Tensor) -> Absorption:
    """Measures absorption on signals `x` [n, d] of `code`; `parent` [M] is -1 for a root, `partner` [M] is from `grade`.

    >>> from cloche.sparse.pursuit import OMP
    >>> from cloche.sparse.truth import Families, Hierarchy, absorption, grade
    >>> data = Hierarchy(32, 40, 2, families=Families(parents=4, children=2), noise=0.0, bias=0.0)
    >>> x, code = data.sample(2_000)
    >>> encoder = OMP(k=4).over(data.dictionary)
    >>> partner = grade(encoder, data.dictionary, x, data.dictionary, code).partner
    >>> found = absorption(encoder, x, code, data.parent, partner)
    >>> abs(found.rate) < 0.1  # the true dictionary does not absorb
    True
    """
    if len(code) != len(x) or not len(parent) == len(partner) == code.size:
        raise SignalsShape(
            f"{len(x):,} signals, a code of {len(code):,} over {code.size:,} atoms, {len(parent):,} parents and "
            f"{len(partner):,} partners do not fit together: give the code that made the signals, and one of each per atom."
        )
    children = (parent >= 0).nonzero()[:, 0]
    above, family = torch.unique(parent[children], return_inverse=True)
    silent, cases = [0, 0], [0, 0]
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        given = Code(code.indices[rows], code.values[rows], code.size).dense() != 0
        found = (encoder.encode(x[rows]).dense() != 0)[:, partner.clamp(min=0)] & (partner >= 0)
        nobody = torch.zeros(len(given), len(above))
        has_child = nobody.index_add(1, family, given[:, children].float()) > 0
        speaks = nobody.index_add(1, family, (given & found)[:, children].float()) > 0
        for i, where in enumerate((given[:, above] & speaks, given[:, above] & ~has_child)):
            silent[i] += int((where & ~found[:, above]).sum())
            cases[i] += int(where.sum())
    if not all(cases):
        raise CorpusEmpty(
            f"Absorption needs parents active with a detected child and without children, but there are {cases[0]:,} and "
            f"{cases[1]:,} cases: give more signals, of a hierarchy with children."
        )
    return Absorption(*(s / n for s, n in zip(silent, cases, strict=True)))
