"""Bytes of tensors that are alive, by what they are for, and the most there were."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORK = "work"  # what nobody has claimed: temporaries, logits, copies


class LiveMemory(TorchDispatchMode):
    """Counts the storage of every tensor that an operation makes while it is entered, until the storage is freed.

    `claim` says what tensors are for; inside `saving`, tensors that autograd saves for the backward pass are
    "activations". `most` has, per phase, the bytes by purpose at the moment when there were most in all.

    >>> import torch
    >>> from cloche.train.prediction.live import LiveMemory
    >>> with LiveMemory() as live:
    ...     live.begin("sum")
    ...     x = torch.ones(1000)
    ...     y = x + 1
    ...     del x
    >>> live.total, live.most
    (4000, {'sum': {'work': 8000}})
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[weakref.ref[Any], int, str]] = {}
        self.live: Counter[str] = Counter()
        self.total = 0
        self.phase = ""
        self.most: dict[str, dict[str, int]] = {}
        self._peaks: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._see(value, WORK)
        return out

    def begin(self, phase: str) -> None:
        """Begins a phase, or goes on with it."""
        self.phase = phase
        self._mark()

    def _mark(self) -> None:
        if self.phase and self.total >= self._peaks[self.phase]:
            self._peaks[self.phase], self.most[self.phase] = self.total, dict(+self.live)

    def claim(self, tensors: Iterable[Tensor], purpose: str) -> None:
        """Says what the storage of these tensors is for."""
        for tensor in tensors:
            self._see(tensor, purpose)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Claims what autograd saves inside as "activations", unless it has a purpose already."""

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found = self.held.get(id(storage))
            if found is None or found[2] == WORK:
                self._see(tensor, "activations")
            return tensor.detach()  # an operation that saves its own output would hold itself alive

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def _see(self, tensor: Tensor, purpose: str) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        found = self.held.get(key)
        if found is not None and found[0]() is storage:
            if purpose != WORK:
                self.live[found[2]] -= found[1]
                self.live[purpose] += found[1]
                self.held[key] = (found[0], found[1], purpose)
            return
        self.held[key] = (weakref.ref(storage, lambda _, key=key: self._freed(key)), size, purpose)  # type: ignore[misc]
        self.live[purpose] += size
        self.total += size
        self._mark()

    def _freed(self, key: int) -> None:
        _, size, purpose = self.held.pop(key)
        self.live[purpose] -= size
        self.total -= size
