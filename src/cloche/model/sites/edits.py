"""Edits as values: what to do at a site, at which positions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from cloche.errors import EditInvalid

if TYPE_CHECKING:
    from cloche.model.sites.vocabulary import Site

Kind = Literal["replace", "add", "scale", "zero", "mean", "noise", "project_out", "clamp", "apply"]


@dataclass(frozen=True)
class Span:
    """A slice of positions, hashable (Python's own is not before 3.12)."""

    start: int | None
    stop: int | None
    step: int | None

    def __str__(self) -> str:
        return ":".join("" if bound is None else str(bound) for bound in (self.start, self.stop, self.step))


# Absolute positions: an index, "last" (of the prompt), "new" (generated), several indices, or a slice.
Where = int | str | tuple[int, ...] | Span | None


@dataclass(frozen=True, eq=False)
class Edit:
    """One change to one site: built by the site's methods, narrowed to positions by `at`.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> edit = net.sites.resid_post[0].scale(0.5).at("last")
    >>> edit
    <Edit: scale resid_post[0] at last by 0.5>
    >>> before, after = net.run([[1, 2, 3]]).logits, net.run([[1, 2, 3]], edits=[edit]).logits
    >>> bool((before[:, :2] == after[:, :2]).all()), bool((before[:, 2] == after[:, 2]).all())
    (True, False)
    """

    site: Site
    kind: Kind
    value: Any = None
    function: Callable[[Tensor], Tensor] | None = None
    where: Where = None

    def at(self, positions: int | slice | str | list[int] | tuple[int, ...]) -> Edit:
        """Only at these absolute positions: an index (negative from the prompt's end), a slice, a list, "last" or "new"."""
        return dataclasses.replace(self, where=_hashable(positions))

    @property
    def own_mean(self) -> bool:
        """Whether it uses the mean of the site itself."""
        return self.kind == "mean" and self.value is None

    def overwrites(self, other: Edit) -> bool:
        """Whether it overwrites all of `other`, made before it at the same positions."""
        same = (self.site.name, self.site.layer) == (other.site.name, other.site.layer)
        covers = self.site.head_index in (None, other.site.head_index)
        return same and covers and not self.own_mean and self.kind in ("replace", "zero", "mean")

    def __str__(self) -> str:
        place = "" if self.where is None else f" at {self.where}"
        return f"{self.kind} {self.site}{place}"

    def __repr__(self) -> str:
        return f"<Edit: {self}{_brought(self.function or self.value)}>"


def _brought(value: Any) -> str:
    """The value of an edit, for its repr."""
    if value is None:
        return ""
    if isinstance(value, Tensor):
        return f" by a tensor {list(value.shape)}"
    if isinstance(value, tuple):
        return "".join(_brought(part) for part in value)
    if isinstance(value, int | float):
        return f" by {value:g}"
    return f" by {getattr(value, '__qualname__', type(value).__name__)}"


_NO_POSITIONS = 'Positions are an index, a slice, a list, "last" or "new"; {!r} is none of these.'


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _hashable(positions: Any) -> Where:
    if isinstance(positions, str):
        if positions not in ("last", "new"):
            raise EditInvalid(_NO_POSITIONS.format(positions))
        return positions
    if isinstance(positions, slice):
        bounds = (positions.start, positions.stop, positions.step)
        if not all(bound is None or _is_index(bound) for bound in bounds):
            raise EditInvalid(_NO_POSITIONS.format(positions))
        if positions.step is not None and positions.step < 1:
            raise EditInvalid(f"An edit's slice steps forward; its step {positions.step} is below one.")
        return Span(*bounds)
    if isinstance(positions, list | tuple) and positions and all(map(_is_index, positions)):
        return tuple(positions)
    if _is_index(positions):
        return positions
    raise EditInvalid(_NO_POSITIONS.format(positions))


def selected(where: Where, positions: Tensor, lengths: Tensor) -> Tensor:
    """Which tokens an edit touches: bool [batch, position].

    positions: [batch, position] absolute, negative on padding. lengths: [batch, 1] tokens of each row's prompt.

    >>> import torch
    >>> from cloche.model.sites import selected
    >>> selected("last", torch.arange(3)[None], torch.tensor([[3]]))
    tensor([[False, False,  True]])
    """
    real = positions >= 0
    if where is None:
        return real
    if where == "last":
        return positions == lengths - 1
    if where == "new":
        return positions >= lengths
    if isinstance(where, int):
        return real & (positions == (where if where >= 0 else lengths + where))
    if isinstance(where, Span):
        start, stop, step = where.start, where.stop, where.step
        first = _bound(start, lengths) if start is not None else torch.zeros_like(lengths)
        inside = real & (positions >= first)
        if stop is not None:
            inside = inside & (positions < _bound(stop, lengths))
        return inside if step is None else inside & ((positions - first) % step == 0)
    return functools.reduce(torch.logical_or, [selected(index, positions, lengths) for index in where])


def _bound(index: int, lengths: Tensor) -> Tensor:
    return lengths * 0 + index if index >= 0 else (lengths + index).clamp(min=0)


def changed(kind: Kind, old: Tensor, value: Tensor | None, function: Callable[[Tensor], Tensor] | None) -> Tensor:
    """The new value of a whole site under one edit; `value` already has its dtype and broadcasts to it."""
    if kind == "zero":
        return torch.zeros_like(old)
    if kind == "apply":
        assert function is not None
        new = function(old.clone())  # a copy: a function that works in place must not change what was saved before
        if not isinstance(new, Tensor) or new.shape != old.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise EditInvalid(
                f"An applied function must return a tensor of shape {tuple(old.shape)}; it returned {got}."
            )
        return new.to(old.dtype)
    assert value is not None
    if kind in ("replace", "mean"):
        return value.expand_as(old)
    if kind in ("add", "noise"):
        return old + value
    if kind == "scale":
        return old * value
    if kind == "clamp":
        unit, level = value[..., :-1], value[..., -1:]
        return old + (level - (old * unit).sum(-1, keepdim=True)) * unit
    unit = value / value.norm(dim=-1, keepdim=True)
    return old - (old * unit).sum(-1, keepdim=True) * unit


def average(value: Tensor, real: Tensor) -> Tensor:
    """The mean of value [batch, position, ...] over the tokens of real, bool [batch or 1, position]."""
    weights = real.expand(value.shape[:2]).to(value.dtype)
    return torch.einsum("bp,bp...->...", weights / weights.sum(), value)
