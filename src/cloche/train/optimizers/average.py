"""Averages of the weights over the updates of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import PartInvalid, ResumeRefused, shown
from cloche.part import Part, within

AVERAGE, COUNT = "average", "averaged"  # state of each parameter: its average, and the updates in it
LARGEST_DECAY = 1 - 2**-24


@dataclass(frozen=True)
class Average(Part, ABC):
    """Base of averages of the weights, which `Optimizer(average=...)` keeps. A subclass defines `share`.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.train import AdamW, Average, Stepper
    >>> @dataclass(frozen=True)
    ... class Mean(Average):
    ...     def share(self, update):
    ...         return 1 / update
    >>> net, weights = torch.nn.Linear(1, 1, bias=False), []
    >>> optimizer = Stepper(net, AdamW(lr=0.01, average=Mean()))
    >>> for _ in range(3):
    ...     net(torch.ones(1, 1)).sum().backward()
    ...     optimizer.step()
    ...     weights.append(net.weight.item())
    >>> with optimizer.averaged():
    ...     abs(net.weight.item() - sum(weights) / 3) < 1e-6
    True
    """

    @abstractmethod
    def share(self, update: int) -> float:
        """How far update number `update` (from 1) moves the average towards the new weights, 0 to 1; 1 for the first."""


@dataclass(frozen=True)
class EMA(Average):
    """Exponential moving average (Polyak and Juditsky 1992): the weights of n updates ago count decay**n as much as those
    of now.

    The factors of the first updates are divided by their sum (as in Adam, 1412.6980, section 3), so that the average is the
    weights themselves after one update.

    >>> from cloche.train import EMA
    >>> [round(EMA(decay=0.9).share(update), 3) for update in (1, 2, 10, 100)]
    [1.0, 0.526, 0.154, 0.1]
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        within(self, decay=(0, LARGEST_DECAY))

    def share(self, update: int) -> float:
        return (1 - self.decay) / (1 - self.decay**update)


class RunningAverage:
    """The average of a network's parameters, by name: it begins with the first update, or with the first after its setting
    was added to a run."""

    def __init__(self, part: Average, names: dict[Tensor, str]) -> None:
        self.part, self.names = part, names
        for update in (1, 2, 1000):
            self._share(update)
        self.updates = 0
        self.values: dict[Tensor, Tensor] = {}

    def _share(self, update: int) -> float:
        """What `share` says, which must be a share."""
        share = self.part.share(update)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise PartInvalid(
                f"[optimizer.average] {self.part} moves by {shown(share)} at update {update}; `share` must be from 0 to 1."
            )
        return share

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after an update."""
        self.updates += 1
        share = self._share(self.updates)
        if not self.values:
            self.values = {p: p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self.names}
        elif share == 1:
            torch._foreach_copy_(list(self.values.values()), list(self.values))
        else:
            now = [p.to(value.dtype) for p, value in self.values.items()]
            torch._foreach_lerp_(list(self.values.values()), now, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold their averages inside the block, and their own values after it."""
        kept = {p: p.detach().clone() for p in self.values}
        try:
            self._fill(self.values)
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, values: dict[Tensor, Tensor]) -> None:
        for p, value in values.items():
            p.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """By "parameter name/average" and "parameter name/averaged", the number of updates in it."""
        found = {f"{self.names[p]}/{AVERAGE}": value for p, value in self.values.items()}
        return found | {f"{self.names[p]}/{COUNT}": torch.tensor(self.updates) for p in self.values}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores `state()`, or begins again if a run had no average until now."""
        self.values = {}
        found = {name for name in tensors if name.rpartition("/")[2] == AVERAGE}
        if not found:
            self.updates = 0
            return
        for p, name in self.names.items():
            if f"{name}/{AVERAGE}" not in found or f"{name}/{COUNT}" not in tensors:
                raise ResumeRefused(
                    f"the saved average of the weights has none of {name!r}; resume with the checkpoint's recipe, or without "
                    "optimizer.average"
                )
            self.values[p] = tensors[f"{name}/{AVERAGE}"].to(p.device)
            self.updates = int(tensors[f"{name}/{COUNT}"])
