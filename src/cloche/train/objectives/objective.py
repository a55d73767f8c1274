"""Objectives as values: what training minimises, as terms with weights."""

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
    """One term of a loss: a scalar with its gradient, logged as it is, and its weight in the sum that is minimised."""

    value: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Objective(Part, ABC):
    """What training minimises: the base of `NextToken` and your own, which defines `terms`."""

    def check(self, net: Network) -> None:
        """Raises ClocheError for a network that it cannot train; called before training starts."""

    @abstractmethod
    def terms(self, net: Network, batch: Tensor) -> dict[str, Term]:
        """The terms of the loss of a batch [row, length + 1] of token ids, by the names that they have in metrics.jsonl.

        The one called "loss" is what a run is judged by (its mean since the last record is logged, and spikes are told from
        it); a term that only regularises has a name of its own.
        """

    def examples(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """batch [row, length + 1] -> inputs, targets and the weights of the targets, each [row, length]."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        return inputs, targets, torch.ones(targets.shape, device=batch.device)

    def nats(self, net: Network, batch: Tensor) -> tuple[Tensor, Tensor]:
        """What validation adds up: the weighted sum of -log p of the targets, nats, and the sum of their weights."""
        inputs, targets, weights = self.examples(batch)
        return head_loss(net, net.hidden(inputs), targets, weights), weights.sum()
