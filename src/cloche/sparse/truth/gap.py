"""Where the error of an autoencoder comes from: its encoder, its dictionary, or noise that no sparse code explains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cloche.drawing import text_table
from cloche.sparse.dictionary import Dictionary, Encoder
from cloche.sparse.metrics import Report, report
from cloche.sparse.pursuit import OMP, NonNegativeOMP
from cloche.sparse.pursuit.base import Pursued

_NAMES = {OMP: "OMP", NonNegativeOMP: "non-negative OMP"}
_SIGNS = 256  # signals on which it is seen whether an encoder uses negative values


@dataclass(frozen=True, eq=False)
class Gap:
    """Three encodings of the same signals with the same number of active atoms, and what lies between them."""

    own: Report  # the dictionary, by the encoder in question
    same: Report  # the same atoms, by a pursuit
    best: Report | None  # the true atoms, by OMP; None where nobody knows them
    pursuit: Pursued  # which made `same`

    @property
    def of_encoder(self) -> float:
        """FVU that a better encoder over the same dictionary takes away."""
        return self.own.fvu - self.same.fvu

    @property
    def of_dictionary(self) -> float | None:
        """FVU that the true dictionary takes away besides."""
        return None if self.best is None else self.same.fvu - self.best.fvu

    @property
    def of_noise(self) -> float | None:
        """FVU that the true dictionary leaves."""
        return None if self.best is None else self.best.fvu

    def __str__(self) -> str:
        rows = [("its own encoder", self.own), (f"the same atoms, by {_NAMES[type(self.pursuit.pursuit)]}", self.same)]
        rows += [] if self.best is None else [("the true atoms, by OMP", self.best)]
        lines = [[what, f"{row.fvu:.4f}", f"{row.l0:.2f}", f"{row.dead_share:.1%}"] for what, row in rows]
        return text_table(["", "FVU", "L0", "dead"], lines)


def gap_report(encoder: Encoder, dictionary: Dictionary, x: Tensor, truth: Dictionary | None = None) -> Gap:
    """Encodes `x` [n, d] three times at the encoder's own L0, rounded: by it, by a pursuit over the same atoms, and by OMP over
    the `truth`. The pursuit is non-negative OMP, or OMP where the encoder itself uses negative values. A greedy pursuit is not
    the best code, so a gap may be a little below zero."""
    own = report(encoder, dictionary, x)
    k = max(1, round(own.l0))
    signed = bool((encoder.encode(x[:_SIGNS]).values < 0).any())
    unit = Dictionary(dictionary.unit(), dictionary.bias)
    same = (OMP(k=k) if signed else NonNegativeOMP(k=k)).over(unit)
    best = None if truth is None else report(OMP(k=k).over(truth), truth, x)
    return Gap(own, report(same, unit, x), best, same)
