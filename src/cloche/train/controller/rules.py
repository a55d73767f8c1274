"""Update rules that a controller steers: heavy ball, and Adam's steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.part import Part, positive, within

State = dict[str, Tensor]


@dataclass(frozen=True)
class UpdateRule(Part, ABC):
    """Base of update rules with three knobs: rate, momentum, decoupled weight decay. A subclass defines `direction`.

    >>> import torch
    >>> from cloche.train.controller import HeavyBall
    >>> weights, state = torch.ones(2), {}
    >>> for _ in range(2):
    ...     HeavyBall().update(weights, torch.tensor([1.0, 0.0]), state, *map(torch.tensor, (0.1, 0.5, 0.0)))
    >>> weights
    tensor([0.7500, 1.0000])
    """

    @abstractmethod
    def direction(self, grad: Tensor, state: State, momentum: Tensor) -> Tensor:
        """The direction of the step, of the gradient's shape; updates `state`, {} at first, which holds tensors only."""

    def update(
        self, weights: Tensor, grad: Tensor, state: State, rate: Tensor, momentum: Tensor, decay: Tensor
    ) -> None:
        """One step in place: weights <- (1 - rate decay) weights - rate direction. The knobs broadcast to the weights."""
        weights.mul_(1 - rate * decay).sub_(rate * self.direction(grad, state, momentum))


@dataclass(frozen=True)
class HeavyBall(UpdateRule):
    """Gradient descent with heavy-ball momentum (Polyak 1964): m <- momentum m + gradient, step along m.

    >>> import torch
    >>> from cloche.train.controller import HeavyBall
    >>> state = {}
    >>> [HeavyBall().direction(torch.ones(1), state, torch.tensor(0.5)).item() for _ in range(3)]
    [1.0, 1.5, 1.75]
    """

    def direction(self, grad: Tensor, state: State, momentum: Tensor) -> Tensor:
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
        return state["momentum"].mul_(momentum).add_(grad)


@dataclass(frozen=True)
class AdamSteps(UpdateRule):
    """Adam's steps (Kingma & Ba, 1412.6980), with a first average whose momentum may change from step to step.

    The averages are divided by the sums of their own weights, which is Adam's bias correction where momentum is constant.

    >>> import torch
    >>> from cloche.train.controller import AdamSteps
    >>> AdamSteps().direction(torch.tensor([0.5, -3.0]), {}, torch.tensor(0.9))
    tensor([ 1., -1.])
    """

    beta2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        positive(self, eps=self.eps)
        within(self, beta2=(0, 1 - 2**-24))

    def direction(self, grad: Tensor, state: State, momentum: Tensor) -> Tensor:
        if "mean" not in state:
            state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
            state["weight"], state["square_weight"] = torch.zeros_like(momentum), grad.new_zeros(())
        mean = state["mean"].mul_(momentum).add_((1 - momentum) * grad)
        square = state["square"].mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        weight = state["weight"].mul_(momentum).add_(1 - momentum)
        square_weight = state["square_weight"].mul_(self.beta2).add_(1 - self.beta2)
        return (mean / weight) / (square / square_weight).sqrt_().add_(self.eps)
