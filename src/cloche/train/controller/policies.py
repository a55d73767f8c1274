"""What sets the knobs in a run: a controller, one constant setting, or a cosine."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloche.part import Part, positive
from cloche.train.controller.controller import (
    DECAYS,
    HIDDEN,
    LOGS,
    SEEN,
    SIZE,
    SLOWEST,
    Knobs,
    log_steps,
    set_logs,
    turn,
)

START = 3  # the first numbers of a vector: logarithms of the rate, of 1 - momentum and of the weight decay


@dataclass(frozen=True)
class Policy(Part, ABC):
    """Base of what sets the knobs: a family of vectors, which `Evolution` searches. The first three numbers of a vector are the
    natural logarithms of the learning rate, 1 - momentum and weight decay at the start; a subclass says what the rest does.

    >>> from cloche.train.controller import Annealed, Fixed, Steered
    >>> Fixed().size, Annealed().size, Steered().size
    (3, 4, 86)
    """

    extra: ClassVar[int] = 0  # numbers of a vector after the first three
    spread: ClassVar[float] = 1.0  # their standard deviation in a search

    lr: float = 0.1

    def __post_init__(self) -> None:
        positive(self, lr=self.lr)

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return START + self.extra

    def centre(self) -> NDArray[np.float64]:
        """Where a search begins."""
        start = [math.log(self.lr), math.log(0.1), math.log(1e-3)]
        return np.array([*start, *[0.0] * self.extra])

    def spreads(self) -> NDArray[np.float64]:
        """The standard deviation of each number at the beginning of a search."""
        return np.array([1.5, 1.0, 1.5, *[self.spread] * self.extra])

    @abstractmethod
    def knobs(self, vectors: Tensor, state: Tensor, features: Tensor, progress: float) -> tuple[Tensor, Knobs]:
        """The state and knobs of this step. vectors: [candidate, size]; features: [candidate, agent, feature]."""


def _start(vectors: Tensor) -> Tensor:
    """Logarithms of 1 - momentum and of the decay at the start, within their bounds [candidate, 1, 2]."""
    return torch.stack([vectors[:, None, 1].clamp(SLOWEST, 0.0), vectors[:, None, 2].clamp(*DECAYS)], -1)


@dataclass(frozen=True)
class Fixed(Policy):
    """One setting for the whole run.

    >>> import torch
    >>> from cloche.train.controller import Fixed
    >>> from cloche.train.controller.controller import new_state
    >>> _, knobs = Fixed().knobs(torch.tensor([[0.0, -2.302585, -30.0]]), new_state((1, 1)), torch.zeros(1, 1, 6), 0.5)
    >>> [round(abs(knob.item()), 4) for knob in knobs]
    [1.0, 0.9, 0.0]
    """

    def knobs(self, vectors: Tensor, state: Tensor, features: Tensor, progress: float) -> tuple[Tensor, Knobs]:
        return set_logs(state, torch.zeros_like(state[..., LOGS]), _start(vectors))


@dataclass(frozen=True)
class Annealed(Policy):
    """The learning rate follows half a cosine from its start to a share, exp(-exp(fourth number)).

    >>> import torch
    >>> from cloche.train.controller import Annealed
    >>> from cloche.train.controller.controller import new_state
    >>> vectors = torch.tensor([[0.0, -2.3, -30.0, 1.0]])
    >>> at = [Annealed().knobs(vectors, new_state((1, 1)), torch.zeros(1, 1, 6), progress)[1] for progress in (0, 0.5, 1)]
    >>> [round(knobs.factor.item(), 2) for knobs in at]
    [1.0, 0.53, 0.07]
    """

    extra: ClassVar[int] = 1

    def knobs(self, vectors: Tensor, state: Tensor, features: Tensor, progress: float) -> tuple[Tensor, Knobs]:
        final = (-vectors[:, None, START].clamp(-5, 1.5).exp()).exp()
        share = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
        logs = torch.zeros_like(state[..., LOGS])
        logs[..., 0] = share.log()
        return set_logs(state, logs, _start(vectors))


@dataclass(frozen=True)
class Steered(Policy):
    """A controller. `blind` hides all but the progress of the run: what is left is a schedule that every task shares.

    A search begins with hidden unit i seeing feature i alone, and with no effect of the units on the knobs; the latter spread
    little, because a knob adds up its steps over the run.

    >>> from cloche.train.controller import Steered
    >>> Steered(blind=True).size
    86
    """

    extra: ClassVar[int] = SIZE

    blind: bool = False

    def centre(self) -> NDArray[np.float64]:
        first = np.eye(len(SEEN), HIDDEN).ravel()
        return np.concatenate([super().centre()[:START], first, np.zeros(SIZE - len(first))])

    def spreads(self) -> NDArray[np.float64]:
        within = len(SEEN) * HIDDEN + HIDDEN
        return np.concatenate([super().spreads()[:START], np.full(within, 0.3), np.full(SIZE - within, 0.1)])

    def knobs(self, vectors: Tensor, state: Tensor, features: Tensor, progress: float) -> tuple[Tensor, Knobs]:
        if self.blind:
            features = torch.cat([torch.zeros_like(features[..., :4]), features[..., 4:]], -1)
        return turn(state, log_steps(vectors[:, START:], features), _start(vectors))
