"""Families of tasks that no controller is trained on by default: factorisation, a deep narrow network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.train.controller.families import (
    Family,
    Regression,
    Tasks,
    Weights,
)


@dataclass(frozen=True)
class Factorisation(Family):
    """A = U V from small random factors, with A of rank three: a saddle at the start. The score is the squared error
    relative to that of zero.

    >>> from cloche.train.controller import Factorisation
    >>> tasks = Factorisation(size=5).draw(1, seed=0, steps=1)
    >>> 0.5 < Factorisation(size=5).score([w[None] for w in tasks.weights], tasks).item() < 1.5
    True
    """

    size: int = 10
    rank: int = 3

    def draw(self, count: int, seed: int, steps: int) -> Tasks:
        g = torch.Generator().manual_seed(seed)
        left, right = (torch.randn((count, self.size, self.rank), generator=g) for _ in range(2))
        strengths = 10 ** (torch.rand((count, 1, self.rank), generator=g) - 0.5)
        target = (left * strengths) @ right.mT / self.rank**0.5
        weights = [
            0.3 * torch.randn((count, *shape), generator=g)
            for shape in ((self.size, self.rank), (self.rank, self.size))
        ]
        return Tasks(weights, ((0, 1),), (True,), {"target": target})

    def loss(self, weights: Weights, tasks: Tasks, step: int) -> Tensor:
        return (weights[0] @ weights[1] - tasks.data["target"]).square().mean((-2, -1))

    def score(self, weights: Weights, tasks: Tasks) -> Tensor:
        return self.loss(weights, tasks, 0) / tasks.data["target"].square().mean((-2, -1))


@dataclass(frozen=True)
class DeepRegression(Regression):
    """`Regression` with five narrow hidden layers.

    >>> from cloche.train.controller import DeepRegression
    >>> len(DeepRegression().draw(1, seed=0, steps=1).weights)
    12
    """

    hidden: int = 10
    depth: int = 5
