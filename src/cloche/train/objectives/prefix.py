"""Prefix language modelling: a first part that every position sees, and the tokens after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, SettingInvalid
from cloche.model import Network
from cloche.part import within
from cloche.train.objectives.batch import Examples, TokenBatch, weighted
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
        if not any(mask.has_prefix for mask in net.masks):
            raise ModelUnsupported(
                "PrefixLM needs attention that sees a prefix, and no mask of this model has one: use "
                "mask = Prefix(), alone or in place of Causal()."
            )

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        batch = TokenBatch.of(batch)
        e = super().examples(batch)
        if e.documents is not None:
            raise SettingInvalid(
                "PrefixLM has one prefix for a row, so a row cannot hold several documents: turn off "
                "rows.document_masks."
            )
        rows, length = e.inputs.shape
        # The last input is never in the prefix, so that every row has a target.
        least, most = min(int(self.least * length), length - 1), min(int(self.most * length), length - 1)
        drawn = torch.randint(least, most + 1, (rows, 1), generator=batch.generator())
        prefix = drawn.to(e.inputs.device)
        # The last token of the prefix predicts the first one after it.
        after = torch.arange(length, device=e.inputs.device) >= prefix - 1
        return e._replace(weights=weighted(e.weights, after.float()), prefix=prefix)
