"""Every step's loss, gradient norm and update norm, whole and by part of the network, for log/steps.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from cloche.model import Network
from cloche.train.monitors.journal import Journal
from cloche.train.monitors.records import StepsRecord
from cloche.train.optimizers.stepper import Norms, Stepper

DIGITS = 5  # significant ones of what is logged
MOST = 1000  # steps of a record: a line of a log is not long


def parts_of(net: nn.Module) -> dict[str, list[Tensor]]:
    """The parameters of a network by part: "embed", "layer 0" and so on, "head" for all others; of a module that is no
    `Network` its top-level children by name, "head" for its own. A parameter, or a block that serves several layers, counts
    where it is used first; parts without parameters are left out.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import parts_of
    >>> list(parts_of(LM(vocab=20, width=24, body=Stack(2, Block(Attention(2), GLU()))).build(0)))
    ['embed', 'layer 0', 'layer 1', 'head']
    >>> list(parts_of(torch.nn.Linear(2, 1)))
    ['head']
    """
    if isinstance(net, Network):
        modules = {"embed": net.embed, **{f"layer {i}": block for i, block in enumerate(net.layers)}}
    else:
        modules = dict(net.named_children())
    seen: set[Tensor] = set()
    found: dict[str, list[Tensor]] = {}
    for name, module in (*modules.items(), ("head", net)):
        if own := [p for p in module.parameters() if p not in seen]:
            found.setdefault(name, []).extend(own)  # a child may be called "head" too
            seen |= set(own)
    return found


class Step:
    """What one step measured. The norms by part are fetched from the device when they are first asked for.

    gradients, updates: the norm of each tensor, [tensor], and the part that it is in. `updates` is None where the update was
    not applied, or the optimiser does not say how far it moved.
    """

    def __init__(
        self, loss: float, grad_norm: float | None, parts: int, gradients: Parted | None, updates: Parted | None
    ) -> None:
        self.loss, self.grad_norm, self.parts = loss, grad_norm, parts
        self._gradients, self._updates = gradients, updates

    @cached_property
    def grad_norms(self) -> list[float] | None:
        """Norm of the gradient of each part, before clipping; None in what was resumed from a checkpoint without them."""
        return None if self._gradients is None else by_part(*self._gradients, self.parts)

    @cached_property
    def update_norms(self) -> list[float] | None:
        """Norm of the update of each part."""
        return None if self._updates is None else by_part(*self._updates, self.parts)

    @cached_property
    def update_norm(self) -> float | None:
        """Norm of the whole update."""
        return None if self.update_norms is None else math.sqrt(sum(norm * norm for norm in self.update_norms))


Parted = tuple[Sequence[int], Tensor]


def by_part(places: Sequence[int], norms: Tensor, parts: int) -> list[float]:
    """The norm of each part, from the norm of each tensor and the part that it is in.

    >>> import torch
    >>> from cloche.train.monitors.steps import by_part
    >>> by_part([0, 1, 1], torch.tensor([2.0, 3.0, 4.0]), parts=3)
    [2.0, 5.0, 0.0]
    """
    squares = [0.0] * parts
    for place, norm in zip(places, norms.tolist(), strict=True):
        squares[place] += norm * norm
    return [math.sqrt(square) for square in squares]


class StepsLog:
    """The steps since the last record of log/steps.jsonl; `last` is the latest of them, or the one before.

    >>> import torch
    >>> from cloche.train import SGD, Stepper
    >>> from cloche.train.monitors.steps import StepsLog
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = Stepper(net, SGD(lr=0.1, clip=1e30))
    >>> log = StepsLog(net, optimizer)
    >>> net(torch.full((1, 1), 3.0)).sum().backward()
    >>> norm = optimizer.clip_gradient()
    >>> optimizer.step()
    >>> log.add(step=1, loss=2.0, grad_norm=norm, applied=True).grad_norms
    [3.0]
    >>> log.take()["update_norm"]
    [0.3]
    """

    def __init__(self, net: nn.Module, optimizer: Stepper) -> None:
        self.net, self.optimizer = net, optimizer
        self.step = 0
        self.steps: list[Step] = []
        self.last: Step | None = None
        self.earlier: list[tuple[float, float | None]] = []  # (loss, update norm) of steps that only metrics lacks yet
        self.told: list[str] = []  # the names of the parts, as the log has them
        self._names: dict[Tensor, str] = {}
        self._parts: list[str] = []
        self._part: dict[Tensor, int] = {}
        self._placed: dict[str, tuple[list[Tensor], list[int]]] = {}

    @property
    def parts(self) -> list[str]:
        """The names of the parts."""
        if self._names is not self.optimizer.names:  # also after neurons were removed, which makes new parameters
            parts = parts_of(self.net)
            self._names, self._parts, self._placed = self.optimizer.names, list(parts), {}
            self._part = {p: i for i, own in enumerate(parts.values()) for p in own}
        return self._parts

    def add(self, step: int, loss: float, grad_norm: float, applied: bool) -> Step:
        """Takes in a step after the optimiser clipped its gradient and, if it is `applied`, made its update; returns it."""
        parts, updates = len(self.parts), self.optimizer.update_norms if applied else None
        self.step = step
        self.last = Step(
            loss,
            grad_norm,
            parts,
            self._parted("gradients", self.optimizer.gradient_norms),
            None if updates is None else self._parted("updates", updates),
        )
        self.steps.append(self.last)
        return self.last

    def _parted(self, what: str, norms: Norms) -> Parted:
        """The norms with the part that each is in, which is looked up once for the same tensors."""
        tensors, values = norms
        known, places = self._placed.get(what, ([], []))
        if len(known) != len(tensors) or not all(map(is_, known, tensors)):
            places = [self._part[p] for p in tensors]
            self._placed[what] = tensors, places
        return places, values

    # ---- what is logged

    @property
    def loss(self) -> float:
        """Mean loss of the steps since the last record of metrics."""
        losses = [*(loss for loss, _ in self.earlier), *(step.loss for step in self.steps)]
        return sum(losses) / len(losses)

    def figures(self) -> dict[str, float]:
        """For the log "metrics": mean and largest norm of the updates since its last record, without those that were not
        applied; {} where the optimiser does not say them."""
        found = [*(norm for _, norm in self.earlier), *(step.update_norm for step in self.steps)]
        norms = [norm for norm in found if norm is not None]
        return {"update_norm": sum(norms) / len(norms), "update_norm_max": max(norms)} if norms else {}

    def due(self, logged: bool) -> StepsRecord | None:
        """A record after a step at which one is due. logged: whether metrics has one after this step."""
        record = self.take() if logged or self.step % MOST == 0 else None
        self.earlier = [] if logged else self.earlier
        return record

    def take(self) -> StepsRecord:
        """A record of the steps since the last; the names of the parts are in the first, and where they changed."""
        steps, self.steps = self.steps, []
        self.earlier += [(step.loss, step.update_norm) for step in steps]
        # An update that was not applied has norm 0, where the optimiser says norms at all.
        still = (0.0, [0.0] * len(self.parts)) if self.optimizer.tells else (None, None)
        moved = [still if step.update_norm is None else (step.update_norm, step.update_norms) for step in steps]
        record: StepsRecord = {
            "step": self.step,
            "loss": rounded([step.loss for step in steps]),
            "grad_norm": rounded([step.grad_norm for step in steps]),
            "update_norm": rounded([norm for norm, _ in moved]),
            "grad_norms": [None if step.grad_norms is None else rounded(step.grad_norms) for step in steps],
            "update_norms": [None if norms is None else rounded(norms) for _, norms in moved],
        }
        if self.told == self.parts:
            return record
        self.told = list(self.parts)
        return {**record, "parts": self.told}

    @contextmanager
    def ending_in(self, book: Journal) -> Iterator[None]:
        """A context that ends with a record of the steps since the last, however it is left."""
        try:
            yield
        finally:
            if self.steps:
                book.log("steps", dict(self.take()))

    # ---- checkpoints

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON: the steps that no record has yet."""
        return {
            "parts": self.told,
            "earlier": self.earlier,
            "loss": [step.loss for step in self.steps],
            "grad_norm": [step.grad_norm for step in self.steps],
            "update_norm": [step.update_norm for step in self.steps],
            "grad_norms": [step.grad_norms for step in self.steps],
            "update_norms": [step.update_norms for step in self.steps],
        }

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Restores what `state` returned at a step."""
        self.step, self.told = step, state["parts"]
        self.earlier = [(loss, norm) for loss, norm in state.get("earlier", [])]
        columns = (state[name] for name in ("loss", "grad_norm", "grad_norms", "update_norms", "update_norm"))
        self.steps = []
        for loss, norm, gradients, updates, moved in zip(*columns, strict=True):
            self.last = Step(loss, norm, len(self.parts), _restored(gradients), _restored(updates))
            self.last.update_norm = moved
            self.steps.append(self.last)


def _restored(norms: list[float] | None) -> Parted | None:
    return None if norms is None else (range(len(norms)), torch.tensor(norms, dtype=torch.float64))


def of_older(state: dict[str, Any]) -> dict[str, Any]:
    """The state for `StepsLog.restore` in that of a checkpoint from before there was a steps.jsonl, which has the losses since
    the last record and the norms of the updates that were applied."""
    losses, applied = state["losses"], state.get("updates", [])
    none: list[Any] = [None] * len(losses)
    moved = [*none[len(applied) :], *applied]
    return {
        "parts": [],
        "earlier": [],
        "loss": losses,
        "grad_norm": none,
        "update_norm": moved,
        "grad_norms": none,
        "update_norms": none,
    }


def rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.{DIGITS}g}") for value in values]
