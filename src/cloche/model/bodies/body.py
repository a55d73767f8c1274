"""Bodies: what is between embedding and head, as iterations that are each computed by a block."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.model.context import Context
from cloche.model.declare import Module, freeze, matrix_weights
from cloche.model.maps.mlp import Gates
from cloche.model.sites.recorder import Adjoint
from cloche.part import Part


class Body(Part):
    """Everything between embedding and head. `build(width, std)` gives an `Iterated`; `std` is the standard deviation of the
    embedded stream.

    >>> from cloche import GLU, Attention, Block, Stack
    >>> from cloche.model import Body
    >>> body = Stack(2, Block(Attention(4), GLU()))
    >>> isinstance(body, Body), len(body.resolved(32).build(32, std=1.0).layers)
    (True, 2)
    """

    def resolved(self, width: int) -> Self:
        """With every implied size written out."""
        return self

    def build(self, width: int, std: float) -> Iterated:
        raise TypeError(f"{type(self).__name__} must define build(width, std)")


class Iterated(Module):
    """The module of a body, which runs iterations 0, 1, ... one after the other.

    A subclass sets `layers`, the block of each iteration in order: a stack has as many blocks as iterations, a loop
    repeats one. Sites, caches, costs and the sweep are indexed by iteration, the number in a site's brackets. A body
    that does more than pass the stream from one block to the next overrides `forward`, and one whose iterations are
    not called layers overrides `named`.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> body = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0).body
    >>> body.named(1), body.flops_per_token(0, length=16) == body.flops_per_token(1, length=16)
    ('layer 1', True)
    """

    layers: Any  # a sequence of modules

    def forward(
        self, x: Tensor, context: Context, states: list[Any] | None, start: int, stop: int
    ) -> tuple[Tensor, list[Any] | None]:
        """Runs the iterations from `start` up to, not including, `stop`, at least one; (x, states).

        x: before iteration 0 the embeddings [batch, position, width], after the last one the input of the final norm,
        of the same shape. Between iterations it is whatever the next one needs, as a tensor [batch, position, ...] in
        which rows and positions are independent, so that some may be exchanged. states: a cache for each
        iteration (None where this pass has none), extended in place.
        """
        for i, block in enumerate(list(self.layers)[start:stop], start):  # indexing a ModuleList is slow
            x, state = block(x, context, i, None if states is None else states[i])
            if states is not None:
                states[i] = state
        return x, states

    def frozen(self, x: Tensor, context: Context, gates: Gates) -> tuple[Tensor, list[Adjoint]]:
        """The output, and the adjoint of each iteration (see `Module`)."""
        adjoints = list[Adjoint]()
        for i, block in enumerate(self.layers):
            x, adjoint = freeze(block, x, context, i, gates)
            adjoints.append(adjoint)
        return x, adjoints

    def named(self, iteration: int) -> str:
        """The name of an iteration in text for people."""
        return f"layer {iteration}"

    def new_states(self, batch: int, capacity: int, like: Tensor) -> list[Any]:
        """An empty cache for each iteration, for `capacity` tokens, with the dtype and device of `like`."""
        return [block.mix.new_state(batch, capacity, like) for block in self.layers]

    def flops_per_token(self, iteration: int, length: int) -> float:
        """Forward operations of an iteration per token in sequences of `length`."""
        inside = {id(p) for block in self.layers for p in block.parameters()}
        if matrix_weights(self, without=inside):
            raise ModelUnsupported(
                f"{type(self).__name__.strip('_')} has matrices of its own beside its blocks', and what they cost is unknown; "
                "define flops_per_token(iteration, length)."
            )
        cost: float = self.layers[iteration].flops_per_token(length)
        return cost
