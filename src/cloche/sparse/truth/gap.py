"""Decomposition of an autoencoder's error into encoder, dictionary, and noise that no sparse code explains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cloche.drawing import text_table
from cloche.sparse.dictionary import Dictionary, Encoder
from cloche.sparse.metrics import Report, report
from cloche.sparse.pursuit import OMP, NonNegativeOMP
from cloche.sparse.pursuit.base import Pursued

_NAMES = {OMP: "OMP", NonNegativeOMP: "non-negative OMP"}
_SIGNS = 256  # signals on which an encoder is checked for negative values


@dataclass(frozen=True, eq=False)
class Gap:
    """Three encodings of the same signals with the same number of active atoms, and the differences between them.

    >>> from cloche.sparse import SyntheticFeatures, Training, gap_report, train_sae
    >>> data = SyntheticFeatures(width=8, features=12, active=2)
    >>> x, _ = data.sample(1_024)
    >>> sae, _ = train_sae(x, 12, l0=2, training=Training(steps=60, batch=256, lr=1e-2))
    >>> gap = gap_report(sae, sae.dictionary, x, data.dictionary)
    >>> total = gap.of_encoder + gap.of_dictionary + gap.of_noise
    >>> abs(total - gap.own.fvu) < 1e-6
    True
    """

    own: Report  # the dictionary, with its encoder
    same: Report  # the same atoms, with a pursuit
    best: Report | None  # the true atoms, with OMP; None if unknown
    pursuit: Pursued  # that computed `same`

    @property
    def of_encoder(self) -> float:
        """FVU due to the encoder: what the pursuit over the same dictionary avoids."""
        return self.own.fvu - self.same.fvu

    @property
    def of_dictionary(self) -> float | None:
        """FVU due to the dictionary: what the true one avoids in addition."""
        return None if self.best is None else self.same.fvu - self.best.fvu

    @property
    def of_noise(self) -> float | None:
        """FVU left by the true dictionary."""
        return None if self.best is None else self.best.fvu

    def __str__(self) -> str:
        rows = [("its own encoder", self.own), (f"the same atoms, by {_NAMES[type(self.pursuit.pursuit)]}", self.same)]
        rows += [] if self.best is None else [("the true atoms, by OMP", self.best)]
        lines = [[what, f"{row.fvu:.4f}", f"{row.l0:.2f}", f"{row.dead_share:.1%}"] for what, row in rows]
        return text_table(["", "FVU", "L0", "dead"], lines)


def gap_report(encoder: Encoder, dictionary: Dictionary, x: Tensor, truth: Dictionary | None = None) -> Gap:
    """Encodes `x` [n, d] three times at the encoder's L0, rounded: with the encoder, with a pursuit over the same atoms,
    and with OMP over the `truth`. The pursuit is non-negative OMP, or OMP if the encoder uses negative values. A greedy
    pursuit is not optimal, so a gap can be slightly below zero.

    >>> from cloche.sparse import SyntheticFeatures, Training, gap_report, train_sae
    >>> data = SyntheticFeatures(width=8, features=12, active=2)
    >>> x, _ = data.sample(1_024)
    >>> sae, _ = train_sae(x, 12, l0=2, training=Training(steps=60, batch=256, lr=1e-2))
    >>> gap = gap_report(sae, sae.dictionary, x, data.dictionary)
    >>> gap.of_encoder > 0, gap.best.fvu < gap.own.fvu
    (True, True)
    """
    own = report(encoder, dictionary, x)
    k = max(1, round(own.l0))
    signed = bool((encoder.encode(x[:_SIGNS]).values < 0).any())
    unit = Dictionary(dictionary.unit(), dictionary.bias)
    same = (OMP(k=k) if signed else NonNegativeOMP(k=k)).over(unit)
    best = None if truth is None else report(OMP(k=k).over(truth), truth, x)
    return Gap(own, report(same, unit, x), best, same)
