"""Synthetic activations with a known dictionary, to grade learners; and noise as a control."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, random_atoms

_ATOMS = 1_000_000_007


def atom_seed(seed: int) -> torch.Generator:
    """Generator for the true atoms, different from the one that a learner with the same seed starts with."""
    return torch.Generator().manual_seed(_ATOMS + seed)


class SyntheticData(ABC):
    """Activations of `width` columns generated from `features` known atoms.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.truth import SyntheticData
    >>> data = SyntheticFeatures(width=8, features=12)
    >>> isinstance(data, SyntheticData), next(data.stream(batch=64)).shape
    (True, torch.Size([64, 8]))
    """

    width: int
    features: int

    @property
    @abstractmethod
    def dictionary(self) -> Dictionary:
        """The true atoms, and the bias added to every signal."""

    @property
    def parent(self) -> Tensor:
        """[features] the parent of each feature, without which it is never active; -1 for roots."""
        return torch.full((self.features,), -1)

    @abstractmethod
    def sample(self, n: int, seed: int = 1) -> tuple[Tensor, Code]:
        """`n` signals [n, width] and the code that generated them; `seed` selects the signals, not the atoms."""

    def stream(self, batch: int, seed: int = 1) -> Iterator[Tensor]:
        """Endless fresh signals [batch, width]; batch i is `sample(batch, seed + i)`."""
        while True:
            yield self.sample(batch, seed)[0]
            seed += 1


@dataclass(frozen=True)
class SyntheticFeatures(SyntheticData):
    """Signals of `active` out of `features` random unit atoms with coefficients uniform in [0.5, 1.5], plus Gaussian noise.

    Feature r (from 1) is active in proportion to r^-`zipf`, like words; `noise` is the standard deviation per coordinate.

    >>> from cloche.sparse import SyntheticFeatures
    >>> data = SyntheticFeatures(width=8, features=12, active=2)
    >>> x, code = data.sample(100)
    >>> x.shape, code
    (torch.Size([100, 8]), Code(100 signals over 12 atoms, at most 2 each, 2 used on average))
    >>> bool((data.dictionary.decode(code) == x).all())  # without noise
    True
    """

    width: int = 32
    features: int = 96
    active: int = 4
    zipf: float = 0.5
    noise: float = 0.0
    seed: int = 0

    @cached_property
    def dictionary(self) -> Dictionary:
        rng = atom_seed(self.seed)
        return Dictionary(random_atoms(self.features, self.width, rng))

    def sample(self, n: int, seed: int = 1) -> tuple[Tensor, Code]:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + seed)
        log_share = -self.zipf * torch.arange(1, self.features + 1).log()
        # The largest of log p + Gumbel noise are draws without replacement in proportion to p.
        gumbel = -torch.empty(n, self.features).exponential_(generator=rng).log()
        indices = (log_share + gumbel).topk(self.active, dim=1).indices
        values = torch.rand(n, self.active, generator=rng) + 0.5
        code = Code(indices, values, self.features)
        noise = self.noise * torch.randn(n, self.width, generator=rng)
        return self.dictionary.decode(code) + noise, code


def isotropic_noise(n: int, width: int, seed: int = 0) -> Tensor:
    """[n, width] Gaussian noise, a control: all directions are equivalent, so two learners should not agree.

    >>> from cloche.sparse import isotropic_noise
    >>> x = isotropic_noise(10_000, 4)
    >>> x.shape, round(float(x.square().mean()), 1)
    (torch.Size([10000, 4]), 1.0)
    """
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
