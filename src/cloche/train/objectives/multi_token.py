"""Multi-token prediction: further heads predict the tokens after the next one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cloche.errors import ModelUnsupported, SettingInvalid
from cloche.model import Network
from cloche.part import positive, within
from cloche.train.objectives.batch import Examples, TokenBatch
from cloche.train.objectives.head_loss import head_loss
from cloche.train.objectives.objective import Term
from cloche.train.objectives.prediction import Prediction


@dataclass(frozen=True)
class MultiToken(Prediction):
    """Cross-entropy of the next `tokens` tokens, each by a head of its own on one trunk (Gloeckle et al., 2404.19737).

    The model has the further heads: `Unembed(ahead=tokens - 1)`, small residual maps before one shared matrix (as Medusa's,
    2401.10774). They go through the chunked loss one after the other, so that the memory is that of one. Each further
    loss, logged as "ahead_2", ..., is a mean over the positions that have such a target; its weight is `share` times their
    fraction of the next tokens, so that accumulated batches have the gradient of a large one. One token ahead is `NextToken`
    to the bit.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack, Unembed
    >>> from cloche.train import MultiToken
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU())), head=Unembed(ahead=1)).build(0)
    >>> {name: term.weight for name, term in MultiToken(2).terms(net, torch.randint(20, (2, 9))).items()}
    {'loss': 1.0, 'ahead_2': 0.875}
    """

    tokens: int = 2
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, tokens=self.tokens)
        within(self, share=(0, 1e6))

    def check(self, net: Network) -> None:
        super().check(net)
        there = getattr(net.spec.head, "ahead", None) or 0
        if there < self.tokens - 1:
            raise ModelUnsupported(
                f"MultiToken(tokens={self.tokens}) predicts with {self.tokens} heads, and this model has {there + 1}: "
                f"set model.head.ahead={self.tokens - 1}."
            )

        if self.tokens > (net.context or self.tokens):
            raise SettingInvalid(
                f"MultiToken(tokens={self.tokens}) predicts more tokens than the {net.context} of a row; "
                "choose fewer, or a larger run.length."
            )

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        return super().examples(batch)

    def terms(self, net: Network, batch: TokenBatch | Tensor) -> dict[str, Term]:
        e = self.examples(batch)
        hidden, auxiliary = self.hidden(net, e)
        terms = self.mean(head_loss(net, hidden, e.targets, e.weights, self.shape), e.total)
        for ahead in range(1, self.tokens):
            further = self._further(e, ahead)
            moved = net.unembed.ahead[ahead - 1](hidden[:, : further.targets.shape[1]])  # type: ignore[operator, index]
            found = self.mean(head_loss(net, moved, further.targets, further.weights, self.shape), further.total)
            share = self.share * float(further.total / e.total.clamp(min=1e-30))
            terms |= {
                f"ahead_{ahead + 1}" + ("" if name == "loss" else f"_{name}"): Term(term.value, share * term.weight)
                for name, term in found.items()
            }
        return terms | self.auxiliary(auxiliary)

    def _further(self, e: Examples, ahead: int) -> Examples:
        """The tokens `ahead` after the next one, of the positions that have one in their own document."""
        targets, weights = e.targets[:, ahead:], None if e.weights is None else e.weights[:, ahead:]
        if e.documents is not None:
            same = (e.documents[:, ahead:] == e.documents[:, :-ahead]).float()
            weights = same if weights is None else weights * same
        return Examples(e.inputs[:, : targets.shape[1]], targets, weights)
