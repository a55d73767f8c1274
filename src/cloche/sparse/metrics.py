"""One set of numbers for any dictionary and encoder: how well, how sparsely, and with how many of its atoms it explains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import CorpusEmpty, NotSolved
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, Encoder, mean_max_cosine
from cloche.sparse.stream import check_activations

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

    def __repr__(self) -> str:
        cosine = "" if self.cosine is None else f", cosine {self.cosine:.3f}"
        return (
            f"Report({self.signals:,} signals, FVU {self.fvu:.3g}, L0 {self.l0:.3g}, "
            f"{self.dead_share:.1%} of {len(self.counts):,} atoms unused{cosine})"
        )

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


class Tally:
    """Sums over signals and their reconstructions, piece by piece, from which a `Report` follows."""

    def __init__(self, atoms: Tensor) -> None:
        self.atoms = atoms
        self.signals = self.used = 0
        self.counts = torch.zeros(len(atoms), dtype=torch.int64)
        self.squared_error = self.squares = 0.0
        self.total, self.origin = torch.zeros(atoms.shape[1], dtype=torch.float64), torch.zeros(())

    def add(self, target: Tensor, reconstruction: Tensor, code: Code) -> None:
        """A piece: what was to be explained [n, d], the explanation [n, d], and the code behind it."""
        if self.signals == 0:
            self.origin = target.float().mean(0)  # sums around a typical point lose no precision to a large mean
        self.squared_error += float((target - reconstruction).square().sum(dtype=torch.float64))
        around = target.float() - self.origin
        self.squares += float(around.square().sum(dtype=torch.float64))
        self.total += around.sum(0, dtype=torch.float64)
        self.counts += code.counts()
        self.used += int(code.active.sum())
        self.signals += len(target)

    def report(self, truth: Tensor | None = None) -> Report:
        """What the sums say; `truth` [M, d] are the planted atoms, where they are known."""
        if self.signals == 0:
            raise CorpusEmpty("There are no activations to report on: harvest some first.")
        variance = self.squares - float(self.total.square().sum()) / self.signals
        if not variance > 0:
            raise NotSolved(
                "All activations are the same, so no share of their variance can be explained: harvest more."
            )
        return Report(
            signals=self.signals,
            fvu=self.squared_error / variance,
            l0=self.used / self.signals,
            dead_share=float((self.counts == 0).double().mean()),
            counts=self.counts,
            cosine=None if truth is None else mean_max_cosine(truth, self.atoms),
        )


@torch.no_grad()
def report(
    encoder: Encoder, dictionary: Dictionary, activations: Tensor | Iterable[Tensor], truth: Tensor | None = None
) -> Report:
    """Encodes and decodes `activations` ([n, d], or an iterable of such pieces; read once, bounded memory) and measures.

    `truth` [M, d]: the planted atoms, where they are known. For what reads one site and writes another: `SAE.report`.
    """
    tally = Tally(dictionary.atoms)
    for batch in pieces_of(activations):
        check_activations(batch, dictionary.width, tally.signals)
        code = encoder.encode(batch)
        tally.add(batch, dictionary.decode(code), code)
    return tally.report(truth)


def pieces_of(activations: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """All rows in order, a few thousand at a time."""
    for piece in [activations] if isinstance(activations, Tensor) else activations:
        yield from piece.split(_ROWS)
