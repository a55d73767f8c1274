"""Base of objectives that predict tokens through the head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.model import Network, Unembed
from cloche.part import positive, within
from cloche.train.objectives.batch import Examples, TokenBatch
from cloche.train.objectives.head_loss import HeadLosses, Shape, head_loss
from cloche.train.objectives.objective import Objective, Term


@dataclass(frozen=True)
class Prediction(Objective, ABC):
    """Mean cross-entropy of targets, in nats per token. A subclass says what is predicted from what (`examples`).

    chunk: number of tokens whose logits are in memory at one time. balance: weight of the routers' balance loss,
    summed over the layers that have one (0.01: Switch Transformer, 2101.03961, section 2.2). smoothing: share of each
    target spread evenly over the vocabulary (label smoothing, 1512.00567). z_loss: weight of the squared log-sum-exp of
    the logits (1e-4: PaLM, 2204.02311).

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import Prediction
    >>> @dataclass(frozen=True)
    ... class EverySecond(Prediction):
    ...     def examples(self, batch):
    ...         e = super().examples(batch)
    ...         return e._replace(weights=(torch.arange(e.targets.shape[1]) % 2).float().expand(e.targets.shape))
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> sorted(EverySecond(z_loss=1e-4).terms(net, torch.randint(20, (2, 9))))
    ['loss', 'z']
    """

    chunk: int = field(default=1024, kw_only=True)
    balance: float = field(default=0.01, kw_only=True)
    smoothing: float = field(default=0.0, kw_only=True)
    z_loss: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        positive(self, chunk=self.chunk)
        within(self, chunk=(1, 10**9), balance=(0, 1e6), smoothing=(0, 1), z_loss=(0, 1e6))

    def check(self, net: Network) -> None:
        if type(net.spec.head) is not Unembed:
            raise ModelUnsupported(
                f"{net.spec.head} cannot be trained: {type(self).__name__} needs one linear map to the vocabulary, "
                f"Unembed(...)."
            )
        self.check_mask(net)

    def check_mask(self, net: Network) -> None:
        """Raises ClocheError if the network's masks do not suit: here, if a token sees those it is to predict."""
        net.require_causal(type(self).__name__)

    def logits_held(self, tokens: int) -> int:
        return min(self.chunk, tokens)

    @property
    def shape(self) -> Shape:
        """How logits become a loss."""
        return Shape(self.chunk, None, self.smoothing, self.z_loss)

    def terms(self, net: Network, batch: TokenBatch | Tensor) -> dict[str, Term]:
        """The mean cross-entropy as "loss"; "spread" with smoothing, "z" with a z-loss, and "balance" for a mixture of
        experts. Raises ClocheError for any other auxiliary loss."""
        e = self.examples(batch)
        hidden, auxiliary = self.hidden(net, e)
        others = self.auxiliary(auxiliary)
        return self.mean(head_loss(net, hidden, e.targets, e.weights, self.shape), e.total) | others

    @abstractmethod
    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        """What is predicted from what. Called here, it is each next token."""
        return super().examples(batch)

    def hidden(self, net: Network, e: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """The stream after the final norm, and the pass's auxiliary losses."""
        return net.hidden_and_losses(e.inputs, e.documents, e.prefix)

    def mean(self, sums: HeadLosses, total: Tensor) -> dict[str, Term]:
        """The terms of a head's losses, divided by the sum of the weights."""
        nats, spread, z = (each / total.clamp(min=1e-30) for each in sums)
        terms = {"loss": Term(nats)}
        if self.smoothing:
            terms["spread"] = Term(spread, self.smoothing)
        return terms | ({"z": Term(z, self.z_loss)} if self.z_loss else {})

    def auxiliary(self, losses: dict[str, Tensor]) -> dict[str, Term]:
        """The terms of the auxiliary losses of a pass."""
        if unknown := sorted(losses.keys() - {"balance"}):
            raise ModelUnsupported(
                f"A part of this model returns the auxiliary loss {unknown[0]!r}, which {type(self).__name__} would ignore; "
                'name it "balance", or train with an objective that uses it.'
            )
        return {name: Term(value, self.balance) for name, value in losses.items()}
