"""Next tokens: of every position, of a window at the end, and of the last position alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SettingInvalid
from cloche.model import Network
from cloche.part import positive
from cloche.train.objectives.batch import Examples, TokenBatch, weighted
from cloche.train.objectives.prediction import Prediction


@dataclass(frozen=True)
class NextToken(Prediction):
    """Mean cross-entropy of each token given those before it, in nats per token, plus the balance loss of a mixture
    of experts.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import NextToken
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> batch = torch.randint(20, (2, 9))
    >>> nats, tokens = NextToken().nats(net, batch)
    >>> tokens, torch.allclose(NextToken().terms(net, batch)["loss"].value, nats / tokens)
    (tensor(16.), True)
    """

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        return super().examples(batch)


@dataclass(frozen=True)
class Windowed(Prediction):
    """`NextToken` of the last `window` positions of each row; those before are context only, and cost the head nothing.

    >>> import torch
    >>> from cloche.train import Windowed
    >>> Windowed(2).examples(torch.arange(5)[None]).weights
    tensor([[0., 0., 1., 1.]])
    """

    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, window=self.window)

    def check(self, net: Network) -> None:
        super().check(net)
        self._require_room(net.context or self.window)

    def _require_room(self, length: int) -> None:
        if self.window > length:
            raise SettingInvalid(
                f"Windowed(window={self.window}) is longer than the {length} targets of a row; choose a window of at most "
                f"{length} or a larger run.length."
            )

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        e = super().examples(batch)
        length = e.targets.shape[1]
        self._require_room(length)
        inside = torch.arange(length, device=e.targets.device) >= length - self.window
        return e._replace(weights=weighted(e.weights, inside.float().expand(e.targets.shape)))


@dataclass(frozen=True)
class LastToken(Prediction):
    """Cross-entropy of the last token of each row given all before it: one target a row.

    >>> import torch
    >>> from cloche.train import LastToken
    >>> LastToken().examples(torch.arange(5)[None]).weights
    tensor([[0., 0., 0., 1.]])
    """

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        e = super().examples(batch)
        last = torch.zeros(e.targets.shape, device=e.targets.device)
        last[:, -1] = 1
        return e._replace(weights=weighted(e.weights, last))
