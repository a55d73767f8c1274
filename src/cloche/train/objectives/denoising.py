"""Hidden tokens, predicted in place from those on both sides: the base, and span corruption."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, SettingInvalid, TokenizerMissing
from cloche.model import Network
from cloche.part import positive, within
from cloche.text import Tokenizer
from cloche.train.objectives.batch import Examples, TokenBatch, weighted
from cloche.train.objectives.head_loss import head_loss
from cloche.train.objectives.prediction import Prediction

MASK = "<|mask|>"


@dataclass(frozen=True)
class Denoising(Prediction, ABC):
    """Base of objectives that hide tokens behind a mask token and predict them where they stand, from both sides. A subclass
    says which (`examples`, with `hide`).

    A row's tokens are the batch's targets. The mask is no target, and only hidden positions reach the head. Documents of one
    row are computed as if alone, and padding is seen by nothing. mask: the id of the mask token; None: that of "<|mask|>",
    which a tokenizer trained for this has. Validation hides tokens as training does and is the mean over those hidden, so that
    bits per byte are of hidden text given the rest: no measure to compare with other objectives'.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.train import Denoising, TokenBatch
    >>> @dataclass(frozen=True)
    ... class HideEverySecond(Denoising):
    ...     def examples(self, batch):
    ...         batch = TokenBatch.of(batch)
    ...         return self.hide(batch, (torch.arange(batch.ids.shape[1] - 1) % 2 == 1).expand(len(batch), -1))
    >>> HideEverySecond(mask=9).examples(torch.arange(5)[None]).inputs
    tensor([[1, 9, 3, 9]])
    """

    mask: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, mask=(0, 2**31 - 1))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return (MASK,) if self.mask is None else ()

    def bound(self, tokenizer: Tokenizer) -> Self:
        if self.mask is not None:
            return self
        (mask,) = ids_of(self, tokenizer, (MASK,), "name another by its id (objective.mask)")
        return replace(self, mask=mask)

    def check(self, net: Network) -> None:
        super().check(net)
        if self.mask is not None and self.mask >= net.spec.vocab:
            raise SettingInvalid(
                f"{type(self).__name__}(mask={self.mask}) is no token of this model, whose ids end at {net.spec.vocab - 1}."
            )

    def check_mask(self, net: Network) -> None:
        if net.causal:
            raise ModelUnsupported(
                f"{type(self).__name__} predicts hidden tokens from those on both sides, and {net.masks[0]} of "
                f"{net.body.named(0)} shows a token none after it: set model.body.block.mix.mask=Full, or choose an objective "
                "for such a mask, such as NextToken."
            )

    def hide(self, batch: TokenBatch, hidden: Tensor, importance: Tensor | None = None) -> Examples:
        """The examples that hide some of a batch's targets: `hidden` [row, position] is True there, `importance`
        (broadcast to it; None: one) the weight of their losses."""
        targets, mask = batch.ids[:, 1:], self.mask_id()
        weights = hidden.float() if importance is None else hidden * importance
        return Examples(targets.masked_fill(hidden, mask), targets, weighted(weights, batch.weights), _documents(batch))

    def mask_id(self) -> int:
        """The id of the mask token. Raises ClocheError if it is not known yet."""
        if self.mask is None:
            raise TokenizerMissing(
                f"{type(self).__name__} does not know its mask token; give its id (mask=), or use .bound(tokenizer)."
            )
        return self.mask

    def nats(self, net: Network, batch: TokenBatch | Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of -log p of the hidden tokens, in nats, and the sum of the weights."""
        e = self.examples(batch)
        return head_loss(net, self.hidden(net, e)[0], e.targets, e.weights).nats, e.total


def real(batch: TokenBatch) -> Tensor:
    """[row, position]: which targets are no padding, the rest of a row whose weights are zero to its end."""
    if batch.weights is None:
        return torch.ones_like(batch.ids[:, 1:], dtype=torch.bool)
    return batch.weights.flip(1).cumsum(1).flip(1) > 0


def _documents(batch: TokenBatch) -> Tensor | None:
    """The documents of a row, with padding as one of its own, which no other token sees."""
    there = real(batch)
    if there.all():
        return batch.documents
    documents = torch.zeros_like(batch.ids[:, 1:]) if batch.documents is None else batch.documents
    return documents.masked_fill(~there, -1)


def ids_of(objective: Prediction, tokenizer: Tokenizer, names: tuple[str, ...], instead: str) -> list[int]:
    """The ids of an objective's special tokens. Raises ClocheError naming those that the tokenizer lacks."""
    ids = [tokenizer.id_of(name) for name in names]
    if missing := [name for name, i in zip(names, ids, strict=True) if i is None]:
        raise TokenizerMissing(
            f"{type(objective).__name__} needs the special token{'s' * (len(missing) > 1)} {', '.join(missing)}, which this "
            f"tokenizer does not have: leave out tokenizer.path, so that one with them is trained, or {instead}."
        )
    return [i for i in ids if i is not None]


@dataclass(frozen=True)
class SpanCorruption(Denoising):
    """Cross-entropy of spans of tokens that are hidden behind mask tokens, one for each token, and predicted in place (the
    spans of T5, 1910.10683, section 3.1.4; in place as in SpanBERT, 1907.10529, without its boundary objective).

    `rate` of a row's tokens are hidden, rounded up or down at random so that it holds on average, in spans of `mean_span` on
    average: lengths of spans and of the text between them are random partitions, placed on the row as on a ring, so that each
    position is hidden equally often and a span may continue at the row's other end.

    >>> import torch
    >>> from cloche.train import SpanCorruption
    >>> e = SpanCorruption(rate=0.5, mean_span=2, mask=99).examples(torch.arange(9)[None])
    >>> e.inputs, e.weights
    (tensor([[99,  2,  3, 99, 99,  6,  7, 99]]), tensor([[1., 0., 0., 1., 1., 0., 0., 1.]]))
    """

    rate: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, rate=self.rate, mean_span=self.mean_span)
        within(self, rate=(0, 1), mean_span=(1, 1e6))

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        batch = TokenBatch.of(batch)
        generator, there = batch.generator(), real(batch).cpu()
        hidden = torch.zeros_like(there)
        for row, length in enumerate(there.sum(1).tolist()):
            hidden[row, :length] = self._spans(length, generator)
        return self.hide(batch, hidden.to(batch.ids.device))

    def spans_of(self, hidden: int, length: int) -> int:
        """In how many spans so many of a row's tokens are hidden."""
        return min(max(1, round(hidden / self.mean_span)), hidden, length - hidden)

    def _spans(self, length: int, generator: torch.Generator) -> Tensor:
        """[length]: True where a row of that many tokens is hidden."""
        rounding, turn = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        hidden = int(self.rate * length + rounding)
        if hidden in (0, length):
            return torch.full((length,), bool(hidden))
        spans = self.spans_of(hidden, length)
        between, within = (_partition(total, spans, generator) for total in (length - hidden, hidden))
        lengths = torch.stack([between, within], 1).flatten()
        ring = torch.repeat_interleave(torch.arange(2 * spans) % 2 == 1, lengths)
        return ring.roll(int(turn * length))


def _partition(total: int, parts: int, generator: torch.Generator) -> Tensor:
    """`parts` whole numbers above zero with that sum, each such list equally likely."""
    cuts = (torch.randperm(total - 1, generator=generator)[: parts - 1] + 1).sort().values
    return torch.diff(cuts, prepend=torch.tensor([0]), append=torch.tensor([total]))
