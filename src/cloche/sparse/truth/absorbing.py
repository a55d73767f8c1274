"""Absorption: a feature that falls silent where a narrower one speaks for it (Chanin et al. 2024, 2409.14507)."""

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
    """How often the partner of an active parent is silent. Only the difference is absorption: the rest is plain misses."""

    with_child: float  # where a child is active too, and the child's partner fires
    without_child: float  # where no child of it is: the control

    @property
    def rate(self) -> float:
        """Silence that the children bring: 0 is none, 1 that every parent leaves its children's signals to them."""
        return self.with_child - self.without_child


@torch.no_grad()
def absorption(encoder: Encoder, x: Tensor, code: Code, parent: Tensor, partner: Tensor) -> Absorption:
    """Measures it on signals `x` [n, d] that `code` made: `parent` [M] is -1 for a root, `partner` [M] is from `grade`."""
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
            f"Parents are active {cases[0]:,} times with a child that speaks and {cases[1]:,} times without a child; "
            "absorption is the difference of the two: give more signals, of a hierarchy with children."
        )
    return Absorption(*(s / n for s, n in zip(silent, cases, strict=True)))
