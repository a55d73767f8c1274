"""Second moments of the inputs and output gradients of linear maps, measured while a network is trained."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model import Linear, Network


class Moments:
    """Sums over the rows that went forward and backward through y = x W^T + b since `clear`.

    inputs: the sum of x x^T, [width, width], with a last coordinate 1 of x if there is a bias. outputs: for each block of
    rows of W (q, k and v) the sum of g g^T, [block, block], where g is the gradient of the loss in y. A pass without
    gradients, or whose result has no part in the loss, is not measured. wanted: whether anything is.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, blocks: Sequence[int]) -> None:
        self.weight, self.bias, self.blocks = weight, bias, list(blocks) or [len(weight)]
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.wanted, self.rows = True, -1
        self.clear()

    def clear(self) -> None:
        """Forgets what was added."""
        if self.rows == 0:
            return
        width = self.weight.shape[1] + (self.bias is not None)
        self.rows = 0
        self.inputs = self.weight.new_zeros(width, width, dtype=self.dtype)
        self.outputs = [self.weight.new_zeros(n, n, dtype=self.dtype) for n in self.blocks]

    def watch(self, x: Tensor, parts: Sequence[Tensor]) -> None:
        """Adds the input x [..., width] and the gradients of `parts`, y split by rows, when the backward pass comes to
        them."""
        x, counted = x.detach(), [False]

        def add(gradient: Tensor, first: int) -> None:
            if not counted[0]:
                counted[0] = True
                self._add_inputs(x.reshape(-1, x.shape[-1]).to(self.dtype))
            self._add_outputs(gradient.detach().reshape(-1, gradient.shape[-1]).to(self.dtype), first)

        firsts = itertools.accumulate([part.shape[-1] for part in parts], initial=0)
        for part, first in zip(parts, firsts, strict=False):
            if part.requires_grad:
                part.register_hook(lambda gradient, first=first: add(gradient, first))

    def _add_inputs(self, x: Tensor) -> None:
        width = x.shape[1]
        self.rows += len(x)
        self.inputs[:width, :width].addmm_(x.T, x)
        if self.bias is not None:
            total = x.sum(0)
            self.inputs[width, :width] += total
            self.inputs[:width, width] += total
            self.inputs[width, width] += len(x)

    def _add_outputs(self, g: Tensor, first: int) -> None:
        """g [row, part]: the gradients of the rows of W from `first` on."""
        begin = 0
        for size, total in zip(self.blocks, self.outputs, strict=True):
            if first <= begin and begin + size <= first + g.shape[1]:
                own = g[:, begin - first : begin - first + size]
                total.addmm_(own.T, own)
            elif begin < first + g.shape[1] and first < begin + size:
                raise ModelUnsupported(
                    f"A linear map of rows {self.blocks} is computed in parts that cut one of these blocks at row {first}, so "
                    "KFAC cannot measure it; split it between blocks."
                )
            begin += size


class Watch:
    """Hands the passes through a linear map to its moments, for as long as these exist. A copy of the network, or one that
    was pickled, is not watched."""

    _paused: ClassVar[bool] = False

    @staticmethod
    @contextmanager
    def paused() -> Iterator[None]:
        """Inside the block nothing is measured, such as of a pass that is no part of an update."""
        before, Watch._paused = Watch._paused, True
        try:
            yield
        finally:
            Watch._paused = before

    def __init__(self, moments: Moments | None = None) -> None:
        self.moments = (lambda: None) if moments is None else weakref.ref(moments)

    def __call__(self, x: Tensor, parts: Sequence[Tensor]) -> None:
        if Watch._paused or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        moments = self.moments()
        if moments is not None and moments.wanted:
            moments.watch(x, parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return Watch, ()


class _Hook(Watch):
    """A forward hook of torch.nn.Linear."""

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # type: ignore[override]
        super().__call__(inputs[0], [output])

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


def watched(net: nn.Module) -> dict[str, Moments]:
    """Watches the linear maps of a network, those of the body if it is a `Network`: their moments by the name of the
    weight."""
    names: dict[Tensor, str] = {p: name for name, p in net.named_parameters()}
    found: dict[Tensor, Moments] = {}

    def moments(module: Any, blocks: Sequence[int] = ()) -> Moments:
        return found.setdefault(module.weight, Moments(module.weight, module.bias, blocks))

    for module in (net.body if isinstance(net, Network) else net).modules():
        if isinstance(module, Linear):
            module.watch = Watch(moments(module, list(module.declared["weight"].blocks.values())))
        elif isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            module.register_forward_hook(_Hook(moments(module)))
    return {names[weight]: held for weight, held in found.items()}
