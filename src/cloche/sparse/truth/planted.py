"""Activations whose dictionary is known, to grade what a learner finds; and noise, in which there is nothing to find."""

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
    """What a plant draws its atoms with: nothing that a learner of the same seed would draw its first atoms with."""
    return torch.Generator().manual_seed(_ATOMS + seed)


class Plant(ABC):
    """Activations of `width` columns made of `features` atoms that are known."""

    width: int
    features: int

    @property
    @abstractmethod
    def dictionary(self) -> Dictionary:
        """The true atoms, and what is added to every signal."""

    @property
    def parent(self) -> Tensor:
        """[features] the feature that each is never active without; -1 for those that need none."""
        return torch.full((self.features,), -1)

    @abstractmethod
    def sample(self, n: int, seed: int = 1) -> tuple[Tensor, Code]:
        """`n` signals [n, width] and the code that made them; another `seed` draws other signals over the same atoms."""

    def stream(self, batch: int, seed: int = 1) -> Iterator[Tensor]:
        """Endless fresh signals [batch, width]; batch i is `sample(batch, seed + i)`."""
        while True:
            yield self.sample(batch, seed)[0]
            seed += 1


@dataclass(frozen=True)
class Planted(Plant):
    """Signals made of `active` of `features` random unit atoms, amounts uniform in [0.5, 1.5], plus Gaussian noise.

    Feature r (from 1) is used in proportion to r^-`zipf`, as words are; `noise` is its standard deviation per coordinate.
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
    """[n, width] Gaussian noise, the control: every direction is as good as another, so no two learners should agree."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
