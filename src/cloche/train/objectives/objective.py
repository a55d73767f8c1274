"""Objectives as values: what training minimises, as weighted terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cloche.model import Network
from cloche.part import Part
from cloche.train.objectives.head_loss import head_loss


class Term(NamedTuple):
    """One term of a loss: a scalar that carries a gradient, logged unweighted, and its weight in the sum that is
    minimised."""

    value: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Objective(Part, ABC):
    """Base of objectives: what training minimises. A subclass defines `terms`."""

    def check(self, net: Network) -> None:
        """Raises ClocheError if it cannot train this network; called before training starts."""

    @abstractmethod
    def terms(self, net: Network, batch: Tensor) -> dict[str, Term]:
        """Terms of the loss on a batch [row, length + 1] of token ids, by their names in metrics.jsonl.

        One must be called "loss": its mean since the last record is logged, and spikes are detected in it. A
        regulariser has a name of its own.
        """

    def examples(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """batch [row, length + 1] -> inputs, targets and the weights of the targets, each [row, length]."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        return inputs, targets, torch.ones(targets.shape, device=batch.device)

    def nats(self, net: Network, batch: Tensor) -> tuple[Tensor, Tensor]:
        """For validation: the weighted sum of -log p of the targets, in nats, and the sum of their weights."""
        inputs, targets, weights = self.examples(batch)
        return head_loss(net, net.hidden(inputs), targets, weights), weights.sum()
