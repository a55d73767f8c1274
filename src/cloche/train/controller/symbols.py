"""A family of tiny language models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.train.controller.families import Family, Tasks, Weights, cross_entropy, perceptron, perceptron_weights


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
