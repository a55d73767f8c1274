"""Penalties as values, and the objective that adds them to another's loss."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cloche.errors import PartInvalid
from cloche.part import Part, within
from cloche.train.monitors.callbacks import Callback
from cloche.train.objectives.next_token import NextToken
from cloche.train.objectives.objective import Objective, Term
from cloche.train.objectives.wrapping import Wrapping
from cloche.train.optimizers.groups import grouped
from cloche.train.penalties.activations import watched_activations
from cloche.train.penalties.pruning import Pruner, Pruning

Declared = Literal["matrix", "embedding", "vector"]  # groups of parameters (see `grouped`)


@dataclass(frozen=True)
class Penalty(Part, ABC):
    """Base of penalties: a term that `Penalised` adds to a loss, `weight` times `value(net, hidden)`. It is logged
    unweighted, under the name of its class: `activation_l1`.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.train import Penalty
    >>> @dataclass(frozen=True)
    ... class LargestWeight(Penalty):
    ...     def value(self, net, hidden):
    ...         return torch.stack([p.abs().max() for p in net.parameters()]).max()
    >>> LargestWeight(weight=0.1).name
    'largest_weight'
    """

    reads_activations: ClassVar[bool] = False  # whether `hidden` must be filled

    weight: float = 1e-5

    def __post_init__(self) -> None:
        within(self, weight=(0, 1e9))

    @property
    def name(self) -> str:
        """Its name in metrics.jsonl."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def check(self, net: nn.Module) -> None:
        """Raises ClocheError if it has nothing to penalise in this network; called before training starts."""

    @abstractmethod
    def value(self, net: nn.Module, hidden: Mapping[str, Tensor]) -> Tensor:
        """A scalar that carries a gradient.

        hidden: where the class says `reads_activations`, the activations [token, unit] of every hidden layer in this
        step's pass, by its name (see `cloche.model.hidden_layers`); else empty.
        """


@dataclass(frozen=True)
class _OfWeights(Penalty):
    groups: tuple[Declared, ...] = ("matrix",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_fields(type(self).__name__)
        if not self.groups:
            raise PartInvalid(f"{type(self).__name__}(groups=[]) penalises nothing; name matrix, embedding or vector.")
        if len(set(self.groups)) < len(self.groups):
            raise PartInvalid(f"{type(self).__name__}(groups={list(self.groups)}) names a group twice; leave one out.")

    def penalised(self, net: nn.Module) -> list[nn.Parameter]:
        """The parameters of its groups."""
        found = grouped(net)
        return [p for group in self.groups for _, p in found[group]]

    def check(self, net: nn.Module) -> None:
        if not self.penalised(net):
            raise PartInvalid(
                f"{self} penalises no parameter: this network has none in {' or '.join(self.groups)}; name other groups."
            )


@dataclass(frozen=True)
class L1(_OfWeights):
    """Sum of |w| over the weights of `groups` (LASSO: Tibshirani 1996).

    >>> import torch
    >>> from cloche.train import L1
    >>> net = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(net.weight, -3.0)
    >>> L1().value(net, {}).item()
    6.0
    """

    def value(self, net: nn.Module, hidden: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([p.abs().sum() for p in self.penalised(net)]).sum()


@dataclass(frozen=True)
class L2(_OfWeights):
    """Half the sum of w^2 over the weights of `groups`: its gradient is `weight` times w.

    This is L2 in the loss. Under plain SGD it equals decoupled decay, an optimiser's `weight_decay`. Under Adam it does
    not: there its gradient is divided by the root of the squared gradient's average, so that a weight whose gradient is
    large is hardly shrunk, where decoupled decay multiplies all weights of a group by one factor, 1 - lr x decay, logged
    as `shrink_<group>` (Loshchilov & Hutter, 1711.05101).

    >>> import torch
    >>> from cloche.train import L2
    >>> net = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(net.weight, -3.0)
    >>> L2().value(net, {}).item()
    9.0
    """

    def value(self, net: nn.Module, hidden: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([p.square().sum() for p in self.penalised(net)]).sum() / 2


@dataclass(frozen=True)
class Penalised(Wrapping):
    """Another objective's loss plus penalties. Validation is the other objective's, without them.

    prune: removes hidden neurons that have fallen silent during training (see `Pruning`); None: never.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import L1, L2, NextToken, Penalised
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> objective = Penalised(NextToken(), penalties=(L1(weight=1e-6), L2(weight=1e-5)))
    >>> [(name, term.weight) for name, term in objective.terms(net, torch.randint(20, (2, 9))).items()]
    [('loss', 1.0), ('l1', 1e-06), ('l2', 1e-05)]
    """

    objective: Objective = NextToken()
    penalties: tuple[Penalty, ...] = ()
    prune: Pruning | None = None

    def __post_init__(self) -> None:
        counts = Counter(penalty.name for penalty in self.penalties)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise PartInvalid(
                f"Penalised(penalties=...) has {twice[0]} twice, and they would be logged under one name."
            )

    def check(self, net: Any) -> None:
        super().check(net)
        for penalty in self.penalties:
            penalty.check(net)
        if self.prune is not None:
            self.prune.check(net)

    def callbacks(self, loop: Any) -> Sequence[Callback]:
        return [*super().callbacks(loop), *([] if self.prune is None else [Pruner(loop, self.objective, self.prune)])]

    def terms(self, net: Any, batch: Any) -> dict[str, Term]:
        reading = any(penalty.reads_activations for penalty in self.penalties)
        with watched_activations(net if reading else None) as hidden:
            terms = self.objective.terms(net, batch)
        seen = hidden()
        added = {p.name: Term(p.value(net, seen if p.reads_activations else {}), p.weight) for p in self.penalties}
        if both := sorted(terms.keys() & added.keys()):
            raise PartInvalid(f"{self.objective} and a penalty both return a term called {both[0]}; leave one out.")
        return terms | added
