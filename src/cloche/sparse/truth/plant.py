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
class Usage:
    """How often each root is drawn: root r (from 1) in proportion to r^-`zipf`, and e^`correlation` times as often where it is
    in the one of `groups` groups that a signal is about."""

    zipf: float = 1.0
    groups: int = 16
    correlation: float = 1.0

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ArgumentRange(f"groups is {self.groups}, but every root is in one: give 1 or more.")


@dataclass(frozen=True)
class Families:
    """`parents` roots have `children` each: with its parent, and never without it, one child is active in a share `rate` of the
    signals."""

    parents: int = 32
    children: int = 4
    rate: float = 0.5

    def __post_init__(self) -> None:
        if min(self.parents, self.children) < 0:
            raise ArgumentRange(f"{self} counts below zero: give parents and children of 0 or more.")
        if not 0 <= self.rate <= 1:
            raise ArgumentRange(f"rate is {self.rate}, but a share lies between 0 and 1: choose one that does.")


@dataclass(frozen=True)
class Hierarchy(Plant):
    """Signals over `features` random unit atoms: roots used by Zipf's law and in groups, and children of some roots.

    A signal draws `active` roots without replacement, as `usage` says. The first root of each of as many equal stretches as
    `families` has parents has children. Amounts are uniform in [0.5, 1.5]. `noise` is the standard deviation per coordinate,
    `bias` the length of a constant vector added to all. The default is four atoms per dimension, a ratio common in practice, at
    a size that a CPU trains in seconds.
    """

    width: int = 256
    features: int = 1024
    active: int = 12
    usage: Usage = Usage()
    families: Families = Families()
    noise: float = 0.02
    bias: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.active) < 1:
            raise ArgumentRange("A planted hierarchy needs a width and active roots of 1 or more: raise them.")
        parents, children = self.families.parents, self.families.children
        if self.roots < max(self.active, parents):
            raise ArgumentRange(
                f"{self.features:,} features less {parents} x {children} children leave {self.roots:,} roots, but "
                f"{self.active} are active and {parents} are parents: raise features, or lower parents or children."
            )

    @property
    def roots(self) -> int:
        """Features that are nobody's child; they come first."""
        return self.features - self.families.parents * self.families.children

    @cached_property
    def dictionary(self) -> Dictionary:
        rng = atom_seed(self.seed)
        atoms = random_atoms(self.features, self.width, rng)
        return Dictionary(atoms, self.bias * F.normalize(torch.randn(self.width, generator=rng), dim=0))

    @cached_property
    def parent(self) -> Tensor:
        out = torch.full((self.features,), -1)
        if parents := self.families.parents:
            stretches = torch.arange(parents) * self.roots // parents
            out[self.roots :] = stretches.repeat_interleave(self.families.children)
        return out

    def sample(self, n: int, seed: int = 1) -> tuple[Tensor, Code]:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + seed)
        rank, usage, children = torch.arange(self.roots), self.usage, self.families.children
        about = torch.randint(usage.groups, (n, 1), generator=rng)
        score = -usage.zipf * (rank + 1).log() + usage.correlation * (rank % usage.groups == about)
        # The largest of log p + Gumbel noise are draws without replacement in proportion to p.
        score -= torch.empty(n, self.roots).exponential_(generator=rng).log()
        chosen = score.topk(self.active, dim=1).indices
        first = torch.full((self.roots,), -1)  # the first child of each root
        if self.roots < self.features:
            first[self.parent[self.roots :: children]] = torch.arange(self.roots, self.features, children)
        child = first[chosen] + torch.randint(max(children, 1), chosen.shape, generator=rng)
        born = (first[chosen] >= 0) & (torch.rand(chosen.shape, generator=rng) < self.families.rate)
        values = torch.rand(n, 2 * self.active, generator=rng) + 0.5
        values[:, self.active :] *= born
        code = Code(torch.cat([chosen, child * born], 1), values, self.features)
        return self.dictionary.decode(code) + self.noise * torch.randn(n, self.width, generator=rng), code
