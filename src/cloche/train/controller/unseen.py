"""Families of tasks that no controller of ours is trained on: a byte language model, factorisation, a deep narrow network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.train.controller.families import (
    Family,
    Regression,
    Tasks,
    Weights,
    cross_entropy,
    perceptron,
    perceptron_weights,
)


@dataclass(frozen=True)
class SymbolModel(Family):
    """A tiny language model: embeddings of the last two symbols and one hidden layer predict the next symbol of a random
    Markov source of order two. The score is the cross-entropy in nats on fresh text.

    >>> from cloche.train.controller import SymbolModel
    >>> len(SymbolModel(symbols=8).draw(1, seed=0, steps=5).groups)
    3
    """

    symbols: int = 24
    width: int = 8
    hidden: int = 24
    batch: int = 32

    def draw(self, count: int, seed: int, steps: int) -> Tasks:
        g = torch.Generator().manual_seed(seed)
        n = self.symbols
        source = (2 * torch.randn((count, 2, n, n), generator=g)).sum(1, keepdim=True)  # of the last symbol
        source = source[:, 0, :, None] + 1.5 * torch.randn((count, n, n, n), generator=g)
        data = {}
        for name, number in (("train", steps * self.batch), ("fresh", 512)):
            before = torch.randint(n, (count, number, 2), generator=g)
            chances = source[torch.arange(count)[:, None], before[..., 0], before[..., 1]].softmax(-1)
            data[f"{name}_x"] = before
            data[f"{name}_y"] = torch.multinomial(chances.flatten(0, 1), 1, generator=g).view(count, number)
        embedding = 0.5 * torch.randn((count, n, self.width), generator=g)
        weights = [embedding, *perceptron_weights([2 * self.width, self.hidden, n], count, g)]
        return Tasks(weights, ((0,), (1, 3), (2, 4)), (False, True, False), data)

    def logits(self, weights: Weights, before: Tensor) -> Tensor:
        """Logits [candidate, task, row, symbol] after two symbols [task, row, 2]."""
        chosen = torch.nn.functional.one_hot(before, self.symbols).float()  # [task, row, 2, symbol]
        embedded = (chosen.flatten(1, 2) @ weights[0]).unflatten(-2, before.shape[1:]).flatten(-2)
        return perceptron(weights[1:], embedded, "relu")

    def loss(self, weights: Weights, tasks: Tasks, step: int) -> Tensor:
        window = slice(step * self.batch, (step + 1) * self.batch)
        return cross_entropy(self.logits(weights, tasks.data["train_x"][:, window]), tasks.data["train_y"][:, window])

    def score(self, weights: Weights, tasks: Tasks) -> Tensor:
        return cross_entropy(self.logits(weights, tasks.data["fresh_x"]), tasks.data["fresh_y"])


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
