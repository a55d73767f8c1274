"""Next-token prediction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.model import Network, Unembed
from cloche.part import positive, within
from cloche.train.objectives.head_loss import head_loss
from cloche.train.objectives.objective import Objective, Term


@dataclass(frozen=True)
class NextToken(Objective):
    """Mean cross-entropy of each token given those before it, in nats per token, plus the balance loss of a mixture
    of experts.

    chunk: number of tokens whose logits are in memory at one time. balance: weight of the routers' balance loss,
    summed over the layers that have one (0.01: Switch Transformer, 2101.03961, section 2.2).

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import NextToken
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> batch = torch.randint(20, (2, 9))
    >>> nats, tokens = NextToken().nats(net, batch)
    >>> tokens, torch.allclose(NextToken().terms(net, batch)["loss"].value, nats / tokens)
    (tensor(16.), True)
    """

    chunk: int = 1024
    balance: float = 0.01

    def __post_init__(self) -> None:
        positive(self, chunk=self.chunk)
        within(self, chunk=(1, 10**9), balance=(0, 1e6))

    def check(self, net: Network) -> None:
        if type(net.spec.head) is not Unembed:
            raise ModelUnsupported(
                f"{net.spec.head} cannot be trained: the next-token loss needs one linear map to the vocabulary, "
                f"Unembed(...)."
            )

    def logits_held(self, tokens: int) -> int:
        return min(self.chunk, tokens)

    def terms(self, net: Network, batch: Tensor) -> dict[str, Term]:
        """The mean cross-entropy as "loss", and "balance" for a mixture of experts. Raises ClocheError for any other
        auxiliary loss."""
        inputs, targets, weights = self.examples(batch)
        hidden, auxiliary = net.hidden_and_losses(inputs)
        if unknown := sorted(auxiliary.keys() - {"balance"}):
            raise ModelUnsupported(
                f"A part of this model returns the auxiliary loss {unknown[0]!r}, which the next-token loss would "
                f"ignore; "
                'name it "balance", or train with an objective that uses it.'
            )
        loss = head_loss(net, hidden, targets, weights, self.chunk) / weights.sum()
        return {"loss": Term(loss)} | {name: Term(value, self.balance) for name, value in auxiliary.items()}

    def nats(self, net: Network, batch: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets, weights = self.examples(batch)
        return head_loss(net, net.hidden(inputs), targets, weights, self.chunk), weights.sum()
