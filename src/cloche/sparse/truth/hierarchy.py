"""Synthetic activations with correlated and hierarchical features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import ArgumentRange
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, random_atoms
from cloche.sparse.truth.synthetic import SyntheticData, atom_seed


@dataclass(frozen=True)
class Usage:
    """Frequencies of the roots: root r (from 1) is drawn in proportion to r^-`zipf`, and e^`correlation` times as often if
    it is in the signal's group, one of `groups`.

    >>> from cloche.sparse.truth import Families, Hierarchy, Usage
    >>> flat = Hierarchy(width=8, features=16, active=2, usage=Usage(zipf=0.0, groups=1), families=Families(parents=0))
    >>> skewed = Hierarchy(width=8, features=16, active=2, usage=Usage(zipf=2.0), families=Families(parents=0))
    >>> [int(data.sample(1_000)[1].counts()[0]) > 500 for data in (flat, skewed)]  # the first root in most signals?
    [False, True]
    """

    zipf: float = 1.0
    groups: int = 16
    correlation: float = 1.0

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ArgumentRange(f"groups is {self.groups}, but every root belongs to a group: use 1 or more.")


@dataclass(frozen=True)
class Families:
    """`parents` roots have `children` each. A child is active only with its parent, and one of them is in a share `rate` of
    the parent's signals.

    >>> from cloche.sparse.truth import Families, Hierarchy
    >>> Hierarchy(width=8, features=12, active=2, families=Families(parents=2, children=2)).parent.tolist()
    [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 4, 4]
    """

    parents: int = 32
    children: int = 4
    rate: float = 0.5

    def __post_init__(self) -> None:
        if min(self.parents, self.children) < 0:
            raise ArgumentRange(f"{self} has negative counts: use parents and children of 0 or more.")
        if not 0 <= self.rate <= 1:
            raise ArgumentRange(f"rate is {self.rate}, but must be a share from 0 to 1: choose another rate.")


@dataclass(frozen=True)
class Hierarchy(SyntheticData):
    """Signals over `features` random unit atoms: roots with Zipf frequencies and groups, and children of some roots.

    A signal draws `active` roots without replacement, with the frequencies of `usage`. The parents of `families` are spaced
    evenly over the roots. Coefficients are uniform in [0.5, 1.5]. `noise` is the standard deviation per coordinate, `bias`
    the norm of a constant vector added to all. The default has four atoms per dimension, a ratio common in practice, and
    trains on a CPU in seconds.

    >>> from cloche.sparse.truth import Families, Hierarchy
    >>> data = Hierarchy(width=8, features=12, active=2, families=Families(parents=2, children=2))
    >>> x, code = data.sample(1_000)
    >>> active = code.dense() != 0
    >>> bool((active[:, 8] <= active[:, 0]).all())  # feature 8 is a child of feature 0
    True
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
            raise ArgumentRange("width and active of a Hierarchy must be 1 or more: raise them.")
        parents, children = self.families.parents, self.families.children
        if self.roots < max(self.active, parents):
            raise ArgumentRange(
                f"{self.features:,} features minus {parents} x {children} children leave {self.roots:,} roots, but "
                f"{self.active} are active and {parents} are parents: raise features, or lower parents or children."
            )

    @property
    def roots(self) -> int:
        """Number of features without a parent; they come first."""
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
