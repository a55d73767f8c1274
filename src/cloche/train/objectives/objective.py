"""Objectives as values: what training minimises, as weighted terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from cloche.errors import ArgumentInvalid
from cloche.model import Network
from cloche.part import Part
from cloche.text import Tokenizer
from cloche.train.monitors.callbacks import Callback
from cloche.train.objectives.batch import Examples, TokenBatch
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


def require_terms(terms: Mapping[str, object]) -> None:
    """Raises ClocheError if an objective returned something that is no `Term`, or none is called "loss".

    >>> import torch
    >>> from cloche.train import Term
    >>> from cloche.train.objectives.objective import require_terms
    >>> require_terms({"loss": Term(torch.tensor(2.0))})
    """
    if "loss" not in terms:
        raise ArgumentInvalid(
            f'The objective returned {", ".join(terms) or "no terms"}; one of its terms must be called "loss".'
        )
    for name, term in terms.items():
        if not isinstance(term, Term):
            raise ArgumentInvalid(
                f"The objective returned a {type(term).__name__} as {name!r}; return Term(value, weight) there, with weight 0 "
                "to log the value alone."
            )


def total_loss(terms: dict[str, Term]) -> Tensor:
    """The weighted sum of an objective's terms. Raises ClocheError if none is called "loss", or one is no `Term`.

    >>> import torch
    >>> from cloche.train import Term, total_loss
    >>> total_loss({"loss": Term(torch.tensor(2.0)), "balance": Term(torch.tensor(1.0), weight=0.5)})
    tensor(2.5000)
    """
    require_terms(terms)
    first, *others = (term.value if term.weight == 1 else term.weight * term.value for term in terms.values())
    return sum(others, first)


@dataclass(frozen=True)
class Objective(Part, ABC):
    """Base of objectives: what training minimises. A subclass defines `terms`.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import Objective, Term
    >>> @dataclass(frozen=True)
    ... class LowEntropy(Objective):
    ...     penalty: float = 0.1
    ...     def terms(self, net, batch):
    ...         loss, count = self.nats(net, batch)
    ...         shares = net(batch[:, :-1]).softmax(-1)
    ...         return {"loss": Term(loss / count), "entropy": Term(torch.special.entr(shares).sum(-1).mean(), self.penalty)}
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> terms = LowEntropy().terms(net, torch.randint(20, (2, 9)))
    >>> sorted(terms), terms["entropy"].weight
    (['entropy', 'loss'], 0.1)
    """

    def check(self, net: Network) -> None:
        """Raises ClocheError if it cannot train this network; called before anything is read, with a network that has no
        memory for its weights."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Names of the special tokens that its examples hold; a tokenizer that is trained for it has them."""
        return ()

    def bound(self, tokenizer: Tokenizer) -> Objective:
        """The objective for models of this tokenizer: one that knows what it needs of it, such as the ids of its special
        tokens. Called before training. Raises ClocheError if the tokenizer lacks any."""
        return self

    @abstractmethod
    def terms(self, net: Network, batch: TokenBatch | Tensor) -> dict[str, Term]:
        """Terms of the loss on a batch, by their names in metrics.jsonl.

        batch: a `TokenBatch`, or ids alone [row, length + 1]. One term must be called "loss": its mean since the last
        record is logged, and spikes are detected in it. A regulariser has a name of its own.
        """

    def callbacks(self, loop: Any) -> Sequence[Callback]:
        """Callbacks of its own in a `Loop`, which runs them after those that it was given."""
        return ()

    def logits_held(self, tokens: int) -> int:
        """At least how many of a batch's tokens have their logits in memory at one time; for the check that it fits."""
        return 1

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        """What is predicted from what: each next token, unless a subclass says otherwise."""
        batch = TokenBatch.of(batch)
        return Examples(batch.ids[:, :-1], batch.ids[:, 1:], batch.weights, batch.documents)

    def weight(self, batch: TokenBatch | Tensor) -> float:
        """How much a batch counts among those that are accumulated into one step: the sum of its targets' weights."""
        return float(self.examples(batch).total)

    def nats(self, net: Network, batch: TokenBatch | Tensor) -> tuple[Tensor, Tensor]:
        """For validation: the weighted sum of -log p of each next token, in nats, and the sum of the weights, so that
        models trained by different objectives are compared. What does not predict next tokens overrides it."""
        e = Objective.examples(self, batch)
        hidden = net.hidden_and_losses(e.inputs, e.documents)[0]
        return head_loss(net, hidden, e.targets, e.weights).nats, e.total
