"""K-SVD: alternates sparse coding with joint updates of each atom and its coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.learners.base import (
    Learner,
    Signals,
    check_count,
    first_atoms,
    gathered,
    started_from,
    superfluous,
    worst_explained,
)
from cloche.sparse.pursuit.base import Pursued, Pursuit, as_array


@dataclass(frozen=True)
class KSVD(Learner):
    """K-SVD (Aharon, Elad & Bruckstein 2006), with the approximate updates of Rubinstein, Zibulevsky & Elad 2008.

    `atoms` atoms start as signals drawn with `seed`. Each of `rounds` codes signals by `pursuit`, then updates the atoms in
    turn: one step of the power method towards the best rank-one approximation of its signals' residual without the atom
    gives atom and coefficients. An unused or duplicate atom is replaced by the signal that is explained worst. A round uses
    `batch` newly drawn signals (None: 10 per atom), the last tenth of the rounds all: faster than all in every round, as in
    the papers, and less prone to poor optima. All signals, including those of a stream, are held in memory.

    >>> from cloche.sparse import SyntheticFeatures, mean_max_cosine
    >>> from cloche.sparse.learners import KSVD
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=16, features=24, active=1)
    >>> dictionary, encoder = KSVD(24, OMP(k=1), rounds=10).fit(data.sample(1_000)[0])
    >>> mean_max_cosine(data.dictionary.atoms, dictionary.atoms) > 0.9
    True
    """

    atoms: int
    pursuit: Pursuit
    rounds: int = 15
    batch: int | None = None
    seed: int = 0

    def lasting(self, passes: int) -> KSVD:
        return replace(self, rounds=passes)

    def fit(self, signals: Signals, start: Dictionary | None = None) -> tuple[Dictionary, Pursued]:
        """Returns the dictionary and its encoder; the atoms start as those of `start`, if given.

        Raises if signals are not finite numbers [n, d], or too few.
        """
        batch = 10 * self.atoms if self.batch is None else self.batch
        for name, count in (("atoms", self.atoms), ("rounds", self.rounds), ("batch", batch)):
            check_count(name, count)
        x = gathered(signals)
        first = first_atoms(x, self.atoms, self.seed) if start is None else started_from(start, self.atoms, x)
        dictionary = Dictionary(first)
        rng = torch.Generator().manual_seed(self.seed)
        few = self.rounds - -(-self.rounds // 10)
        for done in range(self.rounds):
            seen = x[torch.randperm(len(x), generator=rng)[:batch]] if done < few and batch < len(x) else x
            dictionary, code = updated(dictionary, self.pursuit.encode(seen, dictionary), seen)
            if done + 1 < self.rounds:  # an atom replaced after the last round would never be fitted
                dictionary = _replaced(dictionary, code, seen)
        return dictionary, self.pursuit.over(dictionary)


def updated(dictionary: Dictionary, code: Code, x: Tensor) -> tuple[Dictionary, Code]:
    """Dictionary and code after one round: the same atoms in use, and x [n, d] explained no worse."""
    from cloche.sparse.learners.ksvd_kernel import update_pairs

    atoms, values = dictionary.atoms.clone(), code.values.contiguous().clone()
    left = (x - dictionary.decode(code)).contiguous()
    slots = (code.values != 0).flatten().nonzero()[:, 0].numpy()
    order = slots[np.argsort(code.indices.flatten().numpy()[slots], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(code.counts().numpy())])
    update_pairs(as_array(atoms), as_array(values), as_array(left), order, starts)
    return Dictionary(atoms), Code(code.indices, values, code.size)


def _replaced(dictionary: Dictionary, code: Code, x: Tensor) -> Dictionary:
    counts = code.counts()
    lost = superfluous(dictionary, counts) | (counts == 0)
    if not bool(lost.any()):
        return dictionary
    fresh = worst_explained(x, dictionary, code, dictionary.atoms[~lost], int(lost.sum()))
    atoms = dictionary.atoms.clone()
    atoms[lost.nonzero()[: len(fresh), 0]] = fresh
    return Dictionary(atoms)
