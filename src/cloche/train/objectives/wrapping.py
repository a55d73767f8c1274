"""The base of objectives that change another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cloche.text import Tokenizer
from cloche.train.monitors.callbacks import Callback
from cloche.train.objectives.batch import Examples
from cloche.train.objectives.next_token import NextToken
from cloche.train.objectives.objective import Objective, Term


@dataclass(frozen=True)
class Wrapping(Objective):
    """Base of objectives that change another one, `objective`: everything is the other's until a subclass overrides it.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import Term, Wrapping
    >>> @dataclass(frozen=True)
    ... class Doubled(Wrapping):
    ...     def terms(self, net, batch):
    ...         return {name: Term(2 * value, weight) for name, (value, weight) in super().terms(net, batch).items()}
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> batch = torch.randint(20, (2, 9))
    >>> (Doubled().terms(net, batch)["loss"].value / Wrapping().terms(net, batch)["loss"].value).item()
    2.0
    """

    objective: Objective = NextToken()

    def check(self, net: Any) -> None:
        self.objective.check(net)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return self.objective.special_tokens

    def bound(self, tokenizer: Tokenizer) -> Objective:
        return replace(self, objective=self.objective.bound(tokenizer))

    def terms(self, net: Any, batch: Any) -> dict[str, Term]:
        return self.objective.terms(net, batch)

    def callbacks(self, loop: Any) -> Sequence[Callback]:
        return self.objective.callbacks(loop)

    def logits_held(self, tokens: int) -> int:
        return self.objective.logits_held(tokens)

    def examples(self, batch: Any) -> Examples:
        return self.objective.examples(batch)

    def weight(self, batch: Any) -> float:
        return self.objective.weight(batch)

    def nats(self, net: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return self.objective.nats(net, batch)
