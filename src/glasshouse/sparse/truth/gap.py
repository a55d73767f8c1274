"""Where the error of an autoencoder comes from: its encoder, its dictionary, or noise that no sparse code explains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glasshouse.sparse.dictionary import Dictionary, Encoder
from glasshouse.sparse.metrics import Report, report
from glasshouse.sparse.pursuit import OMP, NonNegativeOMP


@dataclass(frozen=True, eq=False)
class Gap:
    """Three encodings of the same signals with the same number of active atoms, and what lies between them."""

    own: Report  # the dictionary, by the encoder in question
    same: Report  # the same dictionary, by non-negative OMP
    best: Report | None  # the true dictionary, by OMP; None where nobody knows it

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
        rows = [("its own encoder", self.own), ("the same atoms, by non-negative OMP", self.same)]
        rows += [] if self.best is None else [("the true atoms, by OMP", self.best)]
        lines = [f"{what:<36} {row.fvu:>7.4f} {row.l0:>7.2f} {row.dead_share:>7.1%}" for what, row in rows]
        return "\n".join([f"{'':<36} {'FVU':>7} {'L0':>7} {'dead':>7}", *lines])


def gap_report(encoder: Encoder, dictionary: Dictionary, x: Tensor, truth: Dictionary | None = None) -> Gap:
    """Encodes `x` [n, d] three times at the encoder's own L0, rounded: by it, by non-negative OMP over the same atoms, and by
    OMP over the `truth`. A greedy pursuit is not the best code, so a gap may be a little below zero."""
    own = report(encoder, dictionary, x)
    k = max(1, round(own.l0))
    unit = Dictionary(dictionary.unit(), dictionary.bias)
    same = report(NonNegativeOMP(k=k).over(unit), unit, x)
    return Gap(own, same, None if truth is None else report(OMP(k=k).over(truth), truth, x))
