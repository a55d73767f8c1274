"""Gradient noise scale: how many rows a batch needs before its gradient is more signal than noise (1812.06162)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cloche.train.optimizers.moments import Watch

DECAY = 0.9  # of the running averages, per measurement


class NoiseScale:
    """Estimates B = tr(Sigma) / |G|^2 from the norms of the gradients of a small and a large batch, where Sigma is the
    covariance of one row's gradient and G the true gradient (McCandlish et al., 1812.06162, appendix A.1).

    With n rows E|g|^2 = |G|^2 + tr(Sigma) / n, so that two sizes give an unbiased estimate of both; single ones are noisy
    and may be negative, so that B is the ratio of their running averages.

    >>> from cloche.train import NoiseScale
    >>> noise = NoiseScale()
    >>> noise.add(small=4.0 + 32.0, rows=1, large=4.0 + 32.0 / 8, of=8)
    (4.0, 32.0)
    >>> noise.scale()
    8.0
    """

    def __init__(self, decay: float = DECAY) -> None:
        self.decay = decay
        self.square, self.variance, self.count = 0.0, 0.0, 0

    def add(self, small: float, rows: int, large: float, of: int) -> tuple[float, float]:
        """Takes in the squared gradient norms of a batch of `rows` rows and of one of `of`; returns the estimates of |G|^2 and
        tr(Sigma) that they give alone."""
        square = (of * large - rows * small) / (of - rows)
        variance = (small - large) / (1 / rows - 1 / of)
        self.count += 1
        share = (1 - self.decay) / (1 - self.decay**self.count)  # 1 at the first
        self.square += share * (square - self.square)
        self.variance += share * (variance - self.variance)
        return square, variance

    def scale(self) -> float | None:
        """The noise scale in rows; None while the averages have no sign that makes sense, far too few measurements."""
        return self.variance / self.square if self.square > 0 and self.variance >= 0 else None

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON."""
        return {"square": self.square, "variance": self.variance, "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        self.square, self.variance, self.count = state["square"], state["variance"], state["count"]


class BatchNoise:
    """The noise scale of a training run: the gradient of a batch's first row beside that of the whole update.

    loss: of a batch. It is called once more, for one row, and the gradients of the update are left as they are, as is torch's
    random state. every: measures at every so many calls.
    """

    def __init__(self, net: nn.Module, loss: Callable[[Any], Tensor], every: int = 4) -> None:
        self.net, self.loss, self.every = net, loss, every
        self.scale, self.calls = NoiseScale(), 0
        self._seen: tuple[float, float, int] | None = (
            None  # squared norms of one row and of the update, rows of a batch
        )

    def before(self, batch: Any, grad_norm: float) -> None:
        """Measures a row of the batch, before the update. grad_norm: of the update's gradient, before it is clipped."""
        self.calls += 1
        if self.calls % self.every == 0:
            self._seen = self._row(batch), grad_norm**2, len(batch)

    def _row(self, batch: Any) -> float:
        """Squared norm of the gradient of the first row."""
        weights = [p for p in self.net.parameters() if p.requires_grad]
        with torch.random.fork_rng(), Watch.paused():
            gradients = torch.autograd.grad(self.loss(batch.row(0)), weights, allow_unused=True)
        return norm_square([g for g in gradients if g is not None])

    def record(self, batches: int) -> dict[str, Any]:
        """What to add to a health record after an update from `batches` batches."""
        seen, self._seen = self._seen, None
        if seen is None or seen[2] * batches < 2:
            return {}
        square, variance = self.scale.add(seen[0], 1, seen[1], seen[2] * batches)
        return {"noise_scale": self.scale.scale(), "gradient_square": square, "gradient_variance": variance}

    def state(self) -> dict[str, Any]:
        return {**self.scale.state(), "calls": self.calls}

    def restore(self, state: dict[str, Any]) -> None:
        self.scale.restore(state)
        self.calls = state["calls"]


def norm_square(gradients: Sequence[Tensor]) -> float:
    return torch.nn.utils.get_total_norm(list(gradients)).item() ** 2
