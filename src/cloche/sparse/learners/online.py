"""Online dictionary learning: codes a batch, accumulates its statistics, updates the atoms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from cloche.errors import CorpusEmpty, SettingRange
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.learners.base import (
    Learner,
    Signals,
    check_count,
    checked,
    first_atoms,
    shuffled,
    started_from,
    streamed,
    superfluous,
    worst_explained,
)
from cloche.sparse.pursuit.base import Pursued, Pursuit, as_array

_LEAST = 1e-12  # share of the largest accumulated energy below which an atom is not updated


@dataclass(frozen=True)
class OnlineDictionaryLearning(Learner):
    """Online dictionary learning (Mairal, Bach, Ponce & Sapiro 2009), coded by any pursuit.

    `atoms` atoms start as signals drawn with `seed`. Each batch is coded by `pursuit`; A = sum of a a^T and B = sum of a
    x^T accumulate the statistics, with older batches discounted: batch t weights its predecessors by (1 - 1/t)^`forget`.
    Then each atom moves to its optimum in turn. An atom unused for `dead_after` signals (None: 8 per atom, at least 4
    batches), or a duplicate, is replaced by the signal that is explained worst. An array is read `passes` times; a stream
    once, in order, in bounded memory.

    >>> from cloche.sparse import SyntheticFeatures, mean_max_cosine
    >>> from cloche.sparse.learners import OnlineDictionaryLearning
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=16, features=24, active=1)
    >>> dictionary, encoder = OnlineDictionaryLearning(24, OMP(k=1)).fit(data.sample(1_000)[0])
    >>> mean_max_cosine(data.dictionary.atoms, dictionary.atoms) > 0.9
    True
    """

    atoms: int
    pursuit: Pursuit
    passes: int = 5
    batch: int = 512
    forget: float = 8.0
    dead_after: int | None = None
    seed: int = 0

    def lasting(self, passes: int) -> OnlineDictionaryLearning:
        return replace(self, passes=passes)

    def fit(self, signals: Signals, start: Dictionary | None = None) -> tuple[Dictionary, Pursued]:
        """Returns the dictionary and its encoder; the atoms start as those of `start`, if given.

        Raises if signals are not finite numbers [n, d], or too few.
        """
        for name in ("atoms", "passes", "batch"):
            check_count(name, getattr(self, name))
        if not self.forget >= 0:
            raise SettingRange(f"forget is {self.forget:g}, but must be zero or more: choose another forget.")
        batches, first = self._batches(signals, self.atoms if start is None else 1)
        fitting = Fitting(self, self._start(first, start))
        for batch in batches:
            fitting.step(batch)
        dictionary = fitting.dictionary
        return dictionary, self.pursuit.over(dictionary)

    def _batches(self, signals: Signals, least: int) -> tuple[Iterator[Tensor], Tensor]:
        """(the batches, the signals that the first atoms are drawn from)."""
        if isinstance(signals, (Tensor, np.ndarray)):
            x = checked(signals)
            return shuffled(x, self.batch, self.passes, self.seed), x
        pieces = streamed(signals, least, self.batch)
        first = next(pieces, None)
        if first is None:
            raise CorpusEmpty("There are no signals to learn a dictionary from: the stream was empty.")
        return chain([first], pieces), first

    def _start(self, x: Tensor, start: Dictionary | None) -> Tensor:
        return first_atoms(x, self.atoms, self.seed) if start is None else started_from(start, self.atoms, x)


class Fitting:
    """State of the learning: the atoms, the two sums, and how long each atom has been unused."""

    def __init__(self, learner: OnlineDictionaryLearning, atoms: Tensor) -> None:
        self.learner = learner
        self.dictionary = Dictionary(atoms)
        self.products = atoms.new_zeros(len(atoms), len(atoms))
        self.targets = torch.zeros_like(atoms)
        self.silent = torch.zeros(len(atoms), dtype=torch.int64)
        self.patience = learner.dead_after or max(8 * learner.atoms, 4 * learner.batch)
        self.done = 0

    def step(self, x: Tensor) -> None:
        """Updates on one batch [n, d]."""
        from cloche.sparse.learners.online_kernel import accumulate, update_atoms

        self.done += 1
        code = self.learner.pursuit.encode(x, self.dictionary)
        kept = (1 - 1 / self.done) ** self.learner.forget
        self.products *= kept
        self.targets *= kept
        sums = as_array(self.products), as_array(self.targets)
        accumulate(code.indices.numpy(), as_array(code.values), as_array(x), *sums)
        self.silent = torch.where(code.counts() > 0, 0, self.silent + len(x))
        atoms = self.dictionary.atoms.clone()
        update_atoms(as_array(atoms), *sums, _LEAST * float(self.products.diagonal().max()))
        self.dictionary = Dictionary(atoms)
        self._replace(x, code)

    def _replace(self, x: Tensor, code: Code) -> None:
        """Replaces redundant atoms by the directions of the signals explained worst."""
        lost = superfluous(self.dictionary, self.products.diagonal()) | (self.silent >= self.patience)
        if not bool(lost.any()):
            return
        atoms = self.dictionary.atoms
        fresh = worst_explained(x, self.dictionary, code, atoms[~lost], int(lost.sum()))
        slots = lost.nonzero()[: len(fresh), 0]
        atoms = atoms.clone()
        atoms[slots] = fresh
        self.products[slots] = 0
        self.products[:, slots] = 0
        self.targets[slots] = 0
        self.silent[slots] = 0
        self.dictionary = Dictionary(atoms)
