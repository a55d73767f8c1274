"""Regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.model import Network
from cloche.train.objectives.objective import Objective, Term


@dataclass(frozen=True)
class SquaredError(Objective):
    """Mean squared error of any module on pairs (x, y), in an open `Loop` whose source gives them.

    >>> import torch
    >>> from cloche.train import SquaredError
    >>> net, x = torch.nn.Linear(2, 1), torch.ones(3, 2)
    >>> SquaredError().terms(net, (x, net(x) + 2))["loss"].value.item()
    4.0
    """

    def check(self, net: Any) -> None:
        if isinstance(net, Network):
            raise ModelUnsupported(
                "SquaredError compares numbers, and a language model predicts tokens: use another objective, such as "
                "NextToken, or a Loop of your own whose source gives pairs (x, y)."
            )

    def terms(self, net: Any, batch: Any) -> dict[str, Term]:
        x, y = batch
        return {"loss": Term((net(x) - y).square().mean())}

    def weight(self, batch: Any) -> float:
        """Number of values that are predicted."""
        return float(batch[1].numel())

    def nats(self, net: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """The sum of squared errors, and the number of values."""
        x, y = batch
        return (net(x) - y).square().sum(), y.new_tensor(y.numel())
