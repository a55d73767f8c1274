"""One set of numbers for any dictionary and encoder: how well, how sparsely, and with how many of its atoms it explains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.dictionary import Dictionary, Encoder, mean_max_cosine
from glasshouse.sparse.stream import check_activations

_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Report:
    """What `report` measured. Better FVU is not better features: where the truth is known, read `cosine` beside it."""

    signals: int
    fvu: float  # fraction of variance unexplained: squared error over squared distance from the mean
    l0: float  # atoms used by a signal, on average
    dead_share: float  # share of atoms no signal used
    counts: Tensor  # [N] signals that used each atom
    cosine: float | None  # mean max cosine to the planted atoms, where they were given

    @property
    def density(self) -> Tensor:
        """[N] share of the signals that use each atom."""
        return self.counts.double() / self.signals

    def density_histogram(self, bins: int = 24) -> dict[str, list[float]]:
        """Atoms by log10 of their density: `edges` [bins + 1] from one signal in all to every signal, `counts` [bins]."""
        lowest = min(-1.0, -torch.tensor(float(self.signals)).log10().item())
        edges = torch.linspace(lowest, 0.0, bins + 1, dtype=torch.float64)
        logs = self.density[self.counts > 0].log10()
        where = torch.bucketize(logs, edges[1:-1], right=True)
        return {"edges": edges.tolist(), "counts": torch.bincount(where, minlength=bins).tolist()}


@torch.no_grad()
def report(
    encoder: Encoder, dictionary: Dictionary, activations: Tensor | Iterable[Tensor], truth: Tensor | None = None
) -> Report:
    """Encodes and decodes `activations` ([n, d], or an iterable of such pieces; read once, bounded memory) and measures.

    `truth` [M, d]: the planted atoms, where they are known.
    """
    pieces = [activations] if isinstance(activations, Tensor) else activations
    signals = used = 0
    counts = torch.zeros(dictionary.size, dtype=torch.int64)
    squared_error = squares = 0.0
    total, origin = torch.zeros(dictionary.width, dtype=torch.float64), torch.zeros(())
    for piece in pieces:
        for batch in (piece[start : start + _ROWS] for start in range(0, len(piece), _ROWS)):
            check_activations(batch, dictionary.width, signals)
            if signals == 0:
                origin = batch.float().mean(0)  # sums around a typical point lose no precision to a large mean
            code = encoder.encode(batch)
            squared_error += float((batch - dictionary.decode(code)).square().sum(dtype=torch.float64))
            around = batch.float() - origin
            squares += float(around.square().sum(dtype=torch.float64))
            total += around.sum(0, dtype=torch.float64)
            counts += code.counts()
            used += int(code.active.sum())
            signals += len(batch)
    if signals == 0:
        raise GlasshouseError("There are no activations to report on: harvest some first.")
    variance = squares - float(total.square().sum()) / signals
    if not variance > 0:
        raise GlasshouseError(
            "All activations are the same, so no share of their variance can be explained: harvest more."
        )
    return Report(
        signals=signals,
        fvu=squared_error / variance,
        l0=used / signals,
        dead_share=float((counts == 0).double().mean()),
        counts=counts,
        cosine=None if truth is None else mean_max_cosine(truth, dictionary.atoms),
    )
