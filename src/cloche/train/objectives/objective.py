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
    minimised.

    >>> import torch
    >>> from cloche.train import Term, total_loss
    >>> total_loss({"loss": Term(torch.tensor(2.0)), "penalty": Term(torch.tensor(3.0), weight=0.1)})
    tensor(2.3000)
    """

    value: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Objective(Part, ABC):
    """Base of objectives: what training minimises. A subclass defines `terms`.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import Objective, Term
    >>> @dataclass(frozen=True)
    ... class ZLoss(Objective):
    ...     weight: float = 1e-4
    ...     def terms(self, net, batch):
    ...         loss, count = self.nats(net, batch)
    ...         z = net(batch[:, :-1]).logsumexp(-1)
    ...         return {"loss": Term(loss / count), "z": Term(z.square().mean(), self.weight)}
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> terms = ZLoss().terms(net, torch.randint(20, (2, 9)))
    >>> sorted(terms), terms["z"].weight
    (['loss', 'z'], 0.0001)
    """

    def check(self, net: Network) -> None:
        """Raises ClocheError if it cannot train this network; called before training starts."""

    @abstractmethod
    def terms(self, net: Network, batch: Tensor) -> dict[str, Term]:
        """Terms of the loss on a batch [row, length + 1] of token ids, by their names in metrics.jsonl.

        One must be called "loss": its mean since the last record is logged, and spikes are detected in it. A
        regulariser has a name of its own.
        """

    def logits_held(self, tokens: int) -> int:
        """At least how many of a batch's tokens have their logits in memory at one time; for the check that it fits."""
        return 1

    def examples(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """batch [row, length + 1] -> inputs, targets and the weights of the targets, each [row, length]."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        return inputs, targets, torch.ones(targets.shape, device=batch.device)

    def nats(self, net: Network, batch: Tensor) -> tuple[Tensor, Tensor]:
        """For validation: the weighted sum of -log p of the targets, in nats, and the sum of their weights."""
        inputs, targets, weights = self.examples(batch)
        return head_loss(net, net.hidden(inputs), targets, weights), weights.sum()
