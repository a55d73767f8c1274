"""What an intervention is measured by: one number of the next-token logits, larger where the clean answer is favoured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.part import Part

__all__ = ["KLDivergence", "LogProbability", "LogitDifference", "Metric", "Rank"]


@dataclass(frozen=True)
class Metric(Part, ABC):
    """A number of logits [vocab]. `answer` is the clean answer's token, `against` the corrupted one's, `clean` the logits
    [vocab] of the clean prompt.

    >>> import torch
    >>> from cloche.interp import LogitDifference
    >>> LogitDifference().read(torch.tensor([1.0, 4.0]), answer=1, against=0, clean=torch.zeros(2))
    tensor(3.)
    """

    @abstractmethod
    def read(self, logits: Tensor, answer: int, against: int, clean: Tensor) -> Tensor:
        """The metric as a scalar tensor, differentiable where its definition is."""

    def read_many(self, logits: Tensor, pairs: Tensor, clean: Tensor) -> Tensor:
        """The metric of each (answer, against) of pairs [pair, 2] in each row of logits [row, vocab], [row, pair]."""

        def read(answer: int, against: int) -> Tensor:
            try:
                return torch.vmap(lambda row: self.read(row, answer, against, clean))(logits)
            except RuntimeError:  # a metric that branches on its values
                return torch.stack([self.read(row, answer, against, clean) for row in logits])

        return torch.stack([read(answer, against) for answer, against in pairs.tolist()], 1)


@dataclass(frozen=True)
class LogitDifference(Metric):
    """Logit of the clean answer minus that of the corrupted one, in nats: linear in the logits (Wang et al. 2022).

    >>> from cloche.interp import LogitDifference
    >>> str(LogitDifference())
    'LogitDifference'
    """

    def read(self, logits: Tensor, answer: int, against: int, clean: Tensor) -> Tensor:
        return _wide(logits[answer]) - _wide(logits[against])

    def read_many(self, logits: Tensor, pairs: Tensor, clean: Tensor) -> Tensor:
        return _wide(logits[:, pairs[:, 0]]) - _wide(logits[:, pairs[:, 1]])


@dataclass(frozen=True)
class LogProbability(Metric):
    """Log-probability of the clean answer, in nats.

    >>> import torch
    >>> from cloche.interp import LogProbability
    >>> LogProbability().read(torch.zeros(4), answer=1, against=0, clean=torch.zeros(4))
    tensor(-1.3863)
    """

    def read(self, logits: Tensor, answer: int, against: int, clean: Tensor) -> Tensor:
        return _wide(logits).log_softmax(-1)[answer]

    def read_many(self, logits: Tensor, pairs: Tensor, clean: Tensor) -> Tensor:
        return _wide(logits).log_softmax(-1)[:, pairs[:, 0]]


@dataclass(frozen=True)
class KLDivergence(Metric):
    """Minus the divergence KL(clean || this) of the next-token distributions, in nats: 0 where nothing is lost.

    >>> import torch
    >>> from cloche.interp import KLDivergence
    >>> KLDivergence().read(torch.ones(4), answer=1, against=0, clean=torch.zeros(4)).abs()
    tensor(0.)
    """

    def read(self, logits: Tensor, answer: int, against: int, clean: Tensor) -> Tensor:
        return -kl(_wide(clean).log_softmax(-1), _wide(logits).log_softmax(-1))

    def read_many(self, logits: Tensor, pairs: Tensor, clean: Tensor) -> Tensor:
        return torch.stack([self.read(row, 0, 0, clean) for row in logits])[:, None].expand(-1, len(pairs))


@dataclass(frozen=True)
class Rank(Metric):
    """Minus the rank of the clean answer among all tokens; -1 where it is the likeliest.

    >>> import torch
    >>> from cloche.interp import Rank
    >>> Rank().read(torch.tensor([1.0, 4.0, 2.0]), answer=2, against=0, clean=torch.zeros(3))
    tensor(-2.)
    """

    def read(self, logits: Tensor, answer: int, against: int, clean: Tensor) -> Tensor:
        return -1.0 - (logits > logits[answer]).sum().float()

    def read_many(self, logits: Tensor, pairs: Tensor, clean: Tensor) -> Tensor:
        below = torch.searchsorted(logits.sort(-1).values, logits[:, pairs[:, 0]], right=True)  # and equal
        return -1.0 - (logits.shape[1] - below).float()


def kl(own: Tensor, other: Tensor) -> Tensor:
    """KL(own || other) in nats [...] of log-probabilities [..., vocab]."""
    return (own.exp() * (own - other)).sum(-1)


def _wide(logits: Tensor) -> Tensor:
    """In single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def preference_notes(metric: Metric, clean: float) -> list[str]:
    """A sentence if the model does not prefer the clean answers, so that effects are on a task it cannot do."""
    if not isinstance(metric, LogitDifference) or clean > 0:
        return []
    return [
        f"The model does not prefer the clean answers (mean logit difference {clean:.3g}), so these are effects on a task that "
        "it cannot do; choose another task, level or checkpoint."
    ]


LOGIT_DIFFERENCE = LogitDifference()  # the default of every instrument that has a metric
