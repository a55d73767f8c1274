"""A penalty on the activations of hidden neurons, under which those that the loss does not need fall silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model import hidden_layers
from cloche.part import positive
from cloche.train.penalties.penalty import Penalty


@dataclass(frozen=True)
class ActivationL1(Penalty):
    """Sum over hidden neurons of mean |a| x ||w||: a the neuron's activation, averaged over the tokens of the batch (of an
    expert: those sent to it), and w its column of the outer matrix.

    Without ||w|| the penalty would be cheated: activations shrink, the columns that read them grow, and the function stays
    the same. With it, scaling a neuron's input and output against each other changes nothing.

    knee: a score s = mean |a| x ||w|| counts as knee x log(1 + s / knee) instead. The plain sum (None) is indifferent to
    splitting one neuron into several alike, so it leaves such copies; here each costs anew, and one of them falls silent,
    while scores far above the knee are hardly shrunk (reweighted L1: Candes, Wakin & Boyd 2008).

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import ActivationL1, NextToken, Penalised
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> objective = Penalised(NextToken(), penalties=(ActivationL1(weight=1e-3),))
    >>> sorted(objective.terms(net, torch.randint(20, (2, 9))))
    ['activation_l1', 'loss']
    """

    reads_activations: ClassVar[bool] = True

    knee: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, knee=self.knee)

    def check(self, net: nn.Module) -> None:
        if not hidden_layers(net):
            raise ModelUnsupported(
                f"{self} finds no hidden layer in this network: a module with maps `inner` and `outer`."
            )

    def value(self, net: nn.Module, hidden: Mapping[str, Tensor]) -> Tensor:
        layers = {layer.name: layer for layer in hidden_layers(net)}
        scores = torch.cat([a.abs().mean(0) * layers[name].norms() for name, a in hidden.items()])
        return scores.sum() if self.knee is None else self.knee * (scores / self.knee).log1p().sum()
