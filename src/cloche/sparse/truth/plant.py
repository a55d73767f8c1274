"""Activations whose features are correlated and nested, from a known dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import ArgumentRange
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, random_atoms
from cloche.sparse.truth.planted import Plant, atom_seed


@dataclass(frozen=True)
class Hierarchy(Plant):
    """Signals over `features` random unit atoms: roots used by Zipf's law and in groups, and children of some roots.

    A signal draws `active` roots without replacement, root r (from 1) in proportion to r^-`zipf`; roots of the group it is
    about are e^`correlation` times as likely. The first root of each of `parents` equal stretches has `children`: with it, and
    never without it, one of them is active in a share `child_rate` of signals. Amounts are uniform in [0.5, 1.5]. `noise` is
    the standard deviation per coordinate, `bias` the length of a constant vector added to all. The default is four atoms a
    dimension, a ratio common in practice, at a size that a CPU trains in seconds.
    """

    width: int = 256
    features: int = 1024
    active: int = 12
    zipf: float = 1.0
    groups: int = 16
    correlation: float = 1.0
    parents: int = 32
    children: int = 4
    child_rate: float = 0.5
    noise: float = 0.02
    bias: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.active, self.groups) < 1 or min(self.parents, self.children) < 0:
            raise ArgumentRange("A planted hierarchy needs a width, active roots and groups of 1 or more: raise them.")
        if self.roots < max(self.active, self.parents):
            raise ArgumentRange(
                f"{self.features:,} features less {self.parents} x {self.children} children leave {self.roots:,} roots, but "
                f"{self.active} are active and {self.parents} are parents: raise features, or lower parents or children."
            )
        if not 0 <= self.child_rate <= 1:
            raise ArgumentRange(
                f"child_rate is {self.child_rate}, but a share lies between 0 and 1: choose one that does."
            )

    @property
    def roots(self) -> int:
        """Features that are nobody's child; they come first."""
        return self.features - self.parents * self.children

    @cached_property
    def dictionary(self) -> Dictionary:
        rng = atom_seed(self.seed)
        atoms = random_atoms(self.features, self.width, rng)
        return Dictionary(atoms, self.bias * F.normalize(torch.randn(self.width, generator=rng), dim=0))

    @cached_property
    def parent(self) -> Tensor:
        out = torch.full((self.features,), -1)
        if self.parents:
            stretches = torch.arange(self.parents) * self.roots // self.parents
            out[self.roots :] = stretches.repeat_interleave(self.children)
        return out

    def sample(self, n: int, seed: int = 1) -> tuple[Tensor, Code]:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + seed)
        rank = torch.arange(self.roots)
        about = torch.randint(self.groups, (n, 1), generator=rng)
        score = -self.zipf * (rank + 1).log() + self.correlation * (rank % self.groups == about)
        # The largest of log p + Gumbel noise are draws without replacement in proportion to p.
        score -= torch.empty(n, self.roots).exponential_(generator=rng).log()
        chosen = score.topk(self.active, dim=1).indices
        first = torch.full((self.roots,), -1)  # the first child of each root
        if self.parents and self.children:
            first[self.parent[self.roots :: self.children]] = torch.arange(self.roots, self.features, self.children)
        child = first[chosen] + torch.randint(max(self.children, 1), chosen.shape, generator=rng)
        born = (first[chosen] >= 0) & (torch.rand(chosen.shape, generator=rng) < self.child_rate)
        values = torch.rand(n, 2 * self.active, generator=rng) + 0.5
        values[:, self.active :] *= born
        code = Code(torch.cat([chosen, child * born], 1), values, self.features)
        return self.dictionary.decode(code) + self.noise * torch.randn(n, self.width, generator=rng), code
