"""Masked diffusion: hidden shares of every size, weighted so that the loss bounds -log p of the whole text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.model import Network
from cloche.part import positive, within
from cloche.train.objectives.batch import Examples, TokenBatch
from cloche.train.objectives.denoising import Denoising, real
from cloche.train.objectives.head_loss import head_loss
from cloche.train.objectives.objective import Term

MOST_DRAWS = 4096  # passes of the model for each validation batch


@dataclass(frozen=True)
class MaskedDiffusion(Denoising):
    """An upper bound of -log p of a text, in nats per token, by a model that reveals it in random order (masked diffusion:
    MDLM, 2406.07524; LLaDA, 2502.09992).

    Each row has a time t, evenly spread over [0, 1] and over the batch's rows. Each of its tokens is hidden with probability
    p = eps + (1 - eps) t, and costs its cross-entropy over p where it is; the sum is divided by the number of all tokens, not
    of those hidden. Validation needs no `eps`: it hides c of a row's L tokens, c from 1 to L evenly spread over rows and
    `draws`, and each costs its cross-entropy times L / c, which is the same integral over t (2502.09992, equation 14). So
    bits per byte are a bound, and comparable with those of next tokens.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Full, Stack
    >>> from cloche.train import MaskedDiffusion
    >>> net = LM(vocab=21, width=24, body=Stack(1, Block(Attention(2, mask=Full()), GLU()))).build(0)
    >>> nats, tokens = MaskedDiffusion(mask=20).nats(net, torch.randint(20, (4, 9)))
    >>> tokens, 2 < nats / tokens < 4
    (tensor(32.), tensor(True))
    """

    eps: float = 1e-3
    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, eps=self.eps, draws=self.draws)
        within(self, eps=(0, 1), draws=(1, MOST_DRAWS))

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        batch = TokenBatch.of(batch)
        generator, shape = batch.generator(), batch.ids[:, 1:].shape
        shares = self.share(_spread(len(batch), generator))[:, None]
        hidden = (torch.rand(shape, generator=generator) < shares).to(batch.ids.device) & real(batch)
        return self.hide(batch, hidden, 1 / shares.to(batch.ids.device))

    def share(self, time: Tensor) -> Tensor:
        """The probability with which a token is hidden at these times, from 0 to 1."""
        return self.eps + (1 - self.eps) * time

    def weight(self, batch: TokenBatch | Tensor) -> float:
        return float(_total(TokenBatch.of(batch)))

    def terms(self, net: Network, batch: TokenBatch | Tensor) -> dict[str, Term]:
        batch = TokenBatch.of(batch)
        e = self.examples(batch)
        hidden, auxiliary = self.hidden(net, e)
        sums = head_loss(net, hidden, e.targets, e.weights, self.shape)
        return self.mean(sums, _total(batch)) | self.auxiliary(auxiliary)

    def nats(self, net: Network, batch: TokenBatch | Tensor) -> tuple[Tensor, Tensor]:
        """The bound's weighted sum over the tokens, in nats: an estimate of `draws` draws; and the sum of the weights."""
        batch = TokenBatch.of(batch)
        generator, there = batch.generator(), real(batch).cpu()
        lengths = there.sum(1, keepdim=True)
        times = _spread(len(batch) * self.draws, generator).view(self.draws, -1, 1)
        sums = []
        for time in times:
            hidden_tokens = 1 + (time * lengths).floor().clamp(max=lengths - 1).clamp(min=0)  # a row may be padding
            order = torch.rand(there.shape, generator=generator).masked_fill(~there, 2).argsort(1).argsort(1)
            hidden = ((order < hidden_tokens) & there).to(batch.ids.device)
            e = self.hide(batch, hidden, (lengths / hidden_tokens).to(batch.ids.device))
            sums.append(head_loss(net, self.hidden(net, e)[0], e.targets, e.weights).nats)
        return torch.stack(sums).mean(), _total(batch)


def _total(batch: TokenBatch) -> Tensor:
    """The sum of the weights of all tokens, hidden or not."""
    return Examples(batch.ids[:, :-1], batch.ids[:, 1:], batch.weights).total


def _spread(number: int, generator: torch.Generator) -> Tensor:
    """[number] times: one random shift of an even grid over [0, 1), in which each time is uniform (Kingma et al., 2107.00630,
    appendix I.1)."""
    shift = torch.rand(1, generator=generator)
    return (shift + torch.arange(number) / number) % 1
