"""Attention masks as values that compose with & and |."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cloche.part import Part, positive


class Mask(Part):
    """A rule on absolute positions. Padding is hidden by the pass, not by the mask.

    >>> from dataclasses import dataclass
    >>> from cloche import GLU, LM, Attention, Block, Causal, Stack
    >>> from cloche.model import Mask
    >>> @dataclass(frozen=True)
    ... class EverySecond(Mask):
    ...     def allows(self, query, key):
    ...         return (query - key) % 2 == 0
    >>> mask = Causal() & EverySecond()
    >>> net = LM(64, 32, Stack(1, Block(Attention(4, mask=mask), GLU()))).build(seed=0)
    >>> (net.run([[1, 2, 3]], save=["pattern[0]"])["pattern[0]"][0, 0] > 0).int()
    tensor([[1, 0, 0],
            [0, 1, 0],
            [1, 0, 1]], dtype=torch.int32)
    """

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """True where a query may see a key. query: [..., query, 1], key: [..., 1, key]; broadcast to [..., query, key]."""
        raise TypeError(f"{type(self).__name__} must define allows(query, key)")

    def visible(self, query: Tensor, key: Tensor, prefix: Tensor | None) -> Tensor:
        """As `allows`, where the first `prefix` [..., 1, 1] positions of each row are its prefix (None: there is none)."""
        return self.allows(query, key)

    def __and__(self, other: Mask) -> Mask:
        return Both(self, other)

    def __or__(self, other: Mask) -> Mask:
        return Either(self, other)

    @property
    def causal(self) -> bool:
        """Whether no query sees a later key outside its prefix, as generation with a cache requires."""
        return False

    @property
    def has_prefix(self) -> bool:
        """Whether queries see all of a prefix, where the pass is given one."""
        return False


@dataclass(frozen=True)
class Causal(Mask):
    """A token sees itself and what came before.

    >>> from cloche import Attention, Causal, Window
    >>> Attention(4, mask=Causal() & Window(128)).mask
    Both(first=Causal(), second=Window(size=128))
    """

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query

    @property
    def causal(self) -> bool:
        return True


@dataclass(frozen=True)
class Prefix(Causal):
    """A token sees itself, what came before, and all of the prefix: in training the one that `PrefixLM` draws, in
    generation the prompt. A pass without a prefix is causal.

    >>> import torch
    >>> from cloche.model import Context, Prefix
    >>> context = Context.over(torch.tensor([[5, 6, 7]]), prefix=torch.tensor([[2]]))
    >>> context.visible(Prefix())[0, 0].int()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """

    def visible(self, query: Tensor, key: Tensor, prefix: Tensor | None) -> Tensor:
        seen = self.allows(query, key)
        return seen if prefix is None else seen | (key < prefix)

    @property
    def has_prefix(self) -> bool:
        return True


@dataclass(frozen=True)
class Full(Mask):
    """Every token sees every token.

    >>> from cloche import GLU, LM, Attention, Block, Full, Stack
    >>> net = LM(64, 32, Stack(1, Block(Attention(4, mask=Full()), GLU()))).build(seed=0)
    >>> bool((net.run([[1, 2, 3]], save=["pattern[0]"])["pattern[0]"] > 0).all())
    True
    """

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return (key == key) & (query == query)


@dataclass(frozen=True)
class Window(Mask):
    """A token sees those fewer than `size` positions away, on either side; `Causal() & Window(n)` is a sliding window.

    >>> from cloche import GLU, LM, Attention, Block, Causal, Stack, Window
    >>> net = LM(64, 32, Stack(1, Block(Attention(4, mask=Causal() & Window(2)), GLU()))).build(seed=0)
    >>> (net.run([[1, 2, 3]], save=["pattern[0]"])["pattern[0]"][0, 0] > 0).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """

    size: int

    def __post_init__(self) -> None:
        positive(self, size=self.size)

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < self.size


@dataclass(frozen=True)
class Both(Mask):
    """Allowed by both masks."""

    first: Mask
    second: Mask

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.first.allows(query, key) & self.second.allows(query, key)

    def visible(self, query: Tensor, key: Tensor, prefix: Tensor | None) -> Tensor:
        return self.first.visible(query, key, prefix) & self.second.visible(query, key, prefix)

    @property
    def causal(self) -> bool:
        return self.first.causal or self.second.causal

    @property
    def has_prefix(self) -> bool:
        return self.first.has_prefix or self.second.has_prefix


@dataclass(frozen=True)
class Either(Mask):
    """Allowed by at least one of two masks."""

    first: Mask
    second: Mask

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.first.allows(query, key) | self.second.allows(query, key)

    def visible(self, query: Tensor, key: Tensor, prefix: Tensor | None) -> Tensor:
        return self.first.visible(query, key, prefix) | self.second.visible(query, key, prefix)

    @property
    def causal(self) -> bool:
        return self.first.causal and self.second.causal

    @property
    def has_prefix(self) -> bool:
        return self.first.has_prefix or self.second.has_prefix
