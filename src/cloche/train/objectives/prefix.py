"""A first part that every position sees, and what comes after it: the text's own continuation, or what is missing in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, SettingInvalid
from cloche.model import Network
from cloche.part import within
from cloche.train.objectives.batch import Examples, TokenBatch, weighted
from cloche.train.objectives.denoising import SpanCorruption, real
from cloche.train.objectives.objective import Objective
from cloche.train.objectives.prediction import Prediction


@dataclass(frozen=True)
class PrefixLM(Prediction):
    """Cross-entropy of the tokens after a prefix, in which attention goes both ways (T5, 1910.10683, section 3.2.1).

    The prefix of each row has between `least` and `most` of its inputs, drawn evenly; its own tokens are not targets.
    The model's masks must have a prefix (`Prefix()`); without one they are causal, and so is validation.

    >>> import torch
    >>> from cloche.train import PrefixLM
    >>> e = PrefixLM(least=0.5, most=0.5).examples(torch.arange(9)[None])
    >>> e.prefix, e.weights
    (tensor([[4]]), tensor([[0., 0., 0., 1., 1., 1., 1., 1.]]))
    """

    least: float = 0.0
    most: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, least=(0, 1), most=(0, 1))
        if self.least > self.most:
            raise SettingInvalid(f"PrefixLM(least={self.least}, most={self.most}): most must be at least least.")

    def check_mask(self, net: Network) -> None:
        super().check_mask(net)
        _require_prefix(self, net)

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        batch = TokenBatch.of(batch)
        e = super().examples(batch)
        _require_one_document(self, batch)
        rows, length = e.inputs.shape
        # The last input is never in the prefix, so that every row has a target.
        least, most = min(int(self.least * length), length - 1), min(int(self.most * length), length - 1)
        drawn = torch.randint(least, most + 1, (rows, 1), generator=batch.generator())
        prefix = drawn.to(e.inputs.device)
        # The last token of the prefix predicts the first one after it.
        after = torch.arange(length, device=e.inputs.device) >= prefix - 1
        return e._replace(weights=weighted(e.weights, after.float()), prefix=prefix)


@dataclass(frozen=True)
class PrefixSpans(SpanCorruption):
    """Span corruption for one stack with a prefix, as T5 and UL2 have it (1910.10683; 2205.05131): the text, with one mask
    token in place of each hidden span, is the prefix; after it come the spans, each after a mask token.

    The loss is on the spans and on the mask token after each, which says that it is complete. A row keeps its length, so that
    its text is cut for room. The model's masks must have a prefix (`Prefix()`); validation is of next tokens, without one.

    >>> import torch
    >>> from cloche.train import PrefixSpans
    >>> e = PrefixSpans(rate=0.25, mean_span=2, mask=99).examples(torch.arange(14)[None])
    >>> e.prefix, e.inputs
    (tensor([[6]]), tensor([[ 0,  1, 99,  4,  5,  6, 99,  2,  3, 99, 99, 99, 99]]))
    >>> e.targets[e.weights > 0]
    tensor([ 2,  3, 99])
    """

    def check_mask(self, net: Network) -> None:
        net.require_causal(type(self).__name__)
        _require_prefix(self, net)

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        batch = TokenBatch.of(batch)
        _require_one_document(self, batch)
        mask, generator = self.mask_id(), batch.generator()
        ids, weights = torch.full_like(batch.ids, mask), torch.zeros(batch.ids.shape)
        prefix = torch.zeros(len(ids), 1, dtype=torch.long)
        for row, length in enumerate((1 + real(batch).sum(1)).tolist()):
            text = batch.ids[row, : self._room(length)]
            hidden = self._spans(len(text), generator).to(text.device)
            begins = hidden & ~hidden.roll(1).index_fill(0, torch.tensor([0], device=text.device), False)
            before = text.masked_fill(begins, mask)[begins | ~hidden]
            # Each hidden token after its span's mask: the masks are put in between by repeating the first token of each.
            twice = text[hidden].repeat_interleave(1 + begins[hidden].long())
            places = torch.arange(int(begins.sum()), device=text.device) + begins[hidden].nonzero()[:, 0]
            after = twice.index_fill(0, places, mask)
            ids[row, : len(before)] = before
            ids[row, len(before) : len(before) + len(after)] = after
            weights[row, len(before) + 1 : len(before) + len(after) + 1] = 1
            prefix[row] = len(before)
        where = batch.ids.device
        return Examples(ids[:, :-1], ids[:, 1:], weights[:, 1:].to(where), prefix=prefix.to(where))

    def _room(self, length: int) -> int:
        """How many tokens of a text fit into so many slots with its masks, however its spans fall."""
        text = length
        while text > 1:
            least = int(self.rate * text)
            spans = max(1, *(self.spans_of(hidden, text) for hidden in (least, least + 1)))
            if text + 2 * (spans + 1) + 1 <= length:
                break
            text -= 1
        return text

    def nats(self, net: Network, batch: TokenBatch | Tensor) -> tuple[Tensor, Tensor]:
        return Objective.nats(self, net, batch)


def _require_prefix(objective: Objective, net: Network) -> None:
    if not any(mask.has_prefix for mask in net.masks):
        raise ModelUnsupported(
            f"{type(objective).__name__} needs attention that sees a prefix, and no mask of this model has one: use "
            "mask = Prefix(), alone or in place of Causal()."
        )


def _require_one_document(objective: Objective, batch: TokenBatch) -> None:
    if batch.documents is not None:
        raise SettingInvalid(
            f"{type(objective).__name__} has one prefix for a row, so a row cannot hold several documents: turn off "
            "rows.document_masks."
        )
