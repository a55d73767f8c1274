"""The same metrics for every dictionary and encoder: variance explained, sparsity, and how many atoms are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import CorpusEmpty, NotSolved
from cloche.sparse.batching import check_activations
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, Encoder, mean_max_cosine

_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Report:
    """Metrics returned by `report`. A better FVU does not mean better features: if the truth is known, read `cosine` as
    well.

    >>> import torch
    >>> from cloche.sparse import Dictionary, report
    >>> from cloche.sparse.pursuit import OMP
    >>> dictionary = Dictionary(torch.eye(4))
    >>> found = report(OMP(k=1).over(dictionary), dictionary, torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.0]]))
    >>> found
    Report(2 signals, FVU 0.143, L0 1, 50.0% of 4 atoms unused)
    >>> found.density.tolist()
    [0.5, 0.5, 0.0, 0.0]
    """

    signals: int
    fvu: float  # fraction of variance unexplained: squared error over squared distance from the mean
    l0: float  # atoms used per signal, on average
    dead_share: float  # share of atoms that no signal used
    counts: Tensor  # [N] signals that used each atom
    cosine: float | None  # mean max cosine to the true atoms, if given

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
        """Histogram of log10 density over the atoms used: `edges` [bins + 1], from one signal to all signals, and `counts`
        [bins]."""
        lowest = min(-1.0, -torch.tensor(float(self.signals)).log10().item())
        edges = torch.linspace(lowest, 0.0, bins + 1, dtype=torch.float64)
        logs = self.density[self.counts > 0].log10()
        where = torch.bucketize(logs, edges[1:-1], right=True)
        return {"edges": edges.tolist(), "counts": torch.bincount(where, minlength=bins).tolist()}


class Tally:
    """Running sums over batches of signals and their reconstructions, from which a `Report` is computed.

    >>> from cloche.sparse import SyntheticFeatures, Tally
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> tally = Tally(data.dictionary.atoms)
    >>> for seed in range(3):
    ...     x, code = data.sample(100, seed)
    ...     tally.add(x, data.dictionary.decode(code), code)
    >>> found = tally.report(truth=data.dictionary.atoms)
    >>> found.signals, found.l0, round(found.fvu, 6), round(found.cosine, 6)
    (300, 2.0, 0.0, 1.0)
    """

    def __init__(self, atoms: Tensor) -> None:
        self.atoms = atoms
        self.signals = self.used = 0
        self.counts = torch.zeros(len(atoms), dtype=torch.int64)
        self.squared_error = self.squares = 0.0
        self.total, self.origin = torch.zeros(atoms.shape[1], dtype=torch.float64), torch.zeros(())

    def add(self, target: Tensor, reconstruction: Tensor, code: Code) -> None:
        """Adds a batch: the target [n, d], its reconstruction [n, d], and the code that gave it."""
        if self.signals == 0:
            self.origin = target.float().mean(0)  # sums around a typical point do not lose precision to a large mean
        self.squared_error += float((target - reconstruction).square().sum(dtype=torch.float64))
        around = target.float() - self.origin
        self.squares += float(around.square().sum(dtype=torch.float64))
        self.total += around.sum(0, dtype=torch.float64)
        self.counts += code.counts()
        self.used += int(code.active.sum())
        self.signals += len(target)

    def report(self, truth: Tensor | None = None) -> Report:
        """Metrics of everything added so far; `truth` [M, d] are the true atoms, if known."""
        if self.signals == 0:
            raise CorpusEmpty("There are no activations to report on: harvest some first.")
        variance = self.squares - float(self.total.square().sum()) / self.signals
        if not variance > 0:
            raise NotSolved("All activations are identical, so they have no variance to explain: harvest more.")
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
    """Encodes and decodes `activations` ([n, d], or an iterable of such tensors, read once in bounded memory) and returns
    metrics. `truth` [M, d] are the true atoms, if known. Transcoders and crosscoders have `SAE.report`.

    >>> from cloche.sparse import SyntheticFeatures, isotropic_noise, report
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=32, features=64, active=2)
    >>> encoder = OMP(k=2).over(data.dictionary)
    >>> report(encoder, data.dictionary, data.sample(200)[0]).fvu < 0.05
    True
    >>> report(encoder, data.dictionary, isotropic_noise(200, 32, seed=0)).fvu > 0.5
    True
    """
    tally = Tally(dictionary.atoms)
    for batch in pieces_of(activations):
        check_activations(batch, dictionary.width, tally.signals)
        code = encoder.encode(batch)
        tally.add(batch, dictionary.decode(code), code)
    return tally.report(truth)


def pieces_of(activations: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """Yields all rows in order, a few thousand at a time."""
    for piece in [activations] if isinstance(activations, Tensor) else activations:
        yield from piece.split(_ROWS)
