"""Greedy construction: signals that the dictionary cannot explain become atoms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import CorpusEmpty, SettingConflict, SettingRange
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.learners.base import (
    ALIKE,
    Learner,
    Signals,
    check_count,
    checked,
    first_atoms,
    new_directions,
    shuffled,
    streamed,
)
from cloche.sparse.pursuit.base import Pursued, Pursuit

_TINY = 1e-12  # share of a batch's mean energy below which a signal does not become an atom


@dataclass(frozen=True)
class ITDA(Learner):
    """Inference-time decomposition of activations (Leask, Nanda & Al Moubayed 2025, 2505.17769): atoms are signals themselves.

    The dictionary starts with random signals (as many as they have coordinates). Then each signal of each batch is coded by
    `pursuit` over the atoms so far and becomes an atom if more than `threshold` of its energy is left, unless a just added
    atom explains it. Ends at `atoms` atoms, or with fewer if the signals are explained. Without a threshold, each batch of
    an array adds its share of the atoms, drawn in proportion to the energy left, so that the last one completes the
    dictionary. One pass: atoms never change, so each is a signal that can be looked up. Signals are read in an order drawn
    with `seed`, streams in their order and only as far as needed.

    >>> from cloche.sparse import SyntheticFeatures, mean_max_cosine
    >>> from cloche.sparse.learners import ITDA
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=16, features=24, active=1)
    >>> dictionary, encoder = ITDA(24, OMP(k=1), threshold=0.1).fit(data.sample(1_000)[0])
    >>> mean_max_cosine(data.dictionary.atoms, dictionary.atoms) > 0.9
    True
    """

    atoms: int
    pursuit: Pursuit
    threshold: float | None = None
    batch: int = 1024
    seed: int = 0

    def fit(self, signals: Signals) -> tuple[Dictionary, Pursued]:
        """The dictionary and its encoder. Raises for signals that are not [n, d] of finite numbers, or too few of them."""
        check_count("atoms", self.atoms)
        check_count("batch", self.batch)
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise SettingRange(
                f"threshold is {self.threshold:g}, but must be a share of a signal's energy: choose one from 0 to 1."
            )
        rng = torch.Generator().manual_seed(self.seed)
        batches, count = self._batches(signals)
        dictionary: Dictionary | None = None
        for done, batch in enumerate(batches, start=1):
            if dictionary is None:
                dictionary = Dictionary(first_atoms(batch, min(self.atoms, batch.shape[1]), self.seed))
            if self.threshold is None:
                room = self.atoms - dictionary.size
                dictionary = self._grown(batch, dictionary, math.ceil(room / (count - done + 1)), 0.0, rng)
            else:
                dictionary = self._grown(batch, dictionary, self.atoms - dictionary.size, self.threshold, rng)
            if dictionary.size == self.atoms:
                break
        if dictionary is None:
            raise CorpusEmpty("There are no signals to learn a dictionary from: the stream was empty.")
        return dictionary, self.pursuit.over(dictionary)

    def _batches(self, signals: Signals) -> tuple[Iterator[Tensor], int]:
        if isinstance(signals, (Tensor, np.ndarray)):
            x = checked(signals)
            batch = max(self.batch, 2 * x.shape[1])  # the first of them starts the dictionary
            return shuffled(x, batch, 1, self.seed), -(-len(x) // batch)
        if self.threshold is None:
            raise SettingConflict(
                "ITDA without a threshold needs the number of signals, which a stream does not have: give a threshold."
            )
        return streamed(signals, 1, self.batch), 0

    def _grown(
        self, x: Tensor, dictionary: Dictionary, room: int, threshold: float, rng: torch.Generator
    ) -> Dictionary:
        """The dictionary with at most `room` more atoms out of x; a few at a time, since each explains others too."""
        energy = x.square().sum(1)
        alike = min(ALIKE, math.sqrt(1 - threshold))
        failing = (energy > _TINY * energy.mean()).nonzero()[:, 0]
        while room > 0 and len(failing):
            signals = x[failing]
            left = (signals - dictionary.decode(self.pursuit.encode(signals, dictionary))).square().sum(1)
            unexplained = left > max(threshold, 1e-6) * energy[failing]
            failing, left = failing[unexplained], left[unexplained]
            if len(failing) == 0:
                break
            some = min(room, max(8, dictionary.size // 16), len(failing))
            drawn = torch.multinomial(left, min(len(failing), 2 * some), generator=rng)
            candidates = F.normalize(x[failing[drawn]], dim=1)
            taken = new_directions(candidates, dictionary.atoms, alike)[:some]
            if len(taken) == 0:
                break
            dictionary = Dictionary(torch.cat([dictionary.atoms, candidates[taken]]))
            room -= len(taken)
        return dictionary
