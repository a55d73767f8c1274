"""Physics in the loss: the residual of a differential equation at points where there need be no data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported, SettingInvalid
from cloche.model import Network
from cloche.part import Part, positive, within
from cloche.train.penalties.penalty import Penalty

Function = Callable[[Tensor], Tensor]


def derivatives(f: Function, t: Tensor, order: int) -> list[Tensor]:
    """[u, u', u'', ...] up to `order` of u = f(t): t [point, 1] -> each [point, 1], by autograd, with a graph of their own.

    f must take each point by itself. Raises ClocheError for a function of several outputs.

    >>> import torch
    >>> from cloche.train import derivatives
    >>> [u.squeeze(1).tolist() for u in derivatives(lambda t: t**3, torch.tensor([[1.0], [2.0]]), 2)]
    [[1.0, 8.0], [3.0, 12.0], [6.0, 12.0]]
    """
    if not t.requires_grad:
        t = t.detach().requires_grad_()
    with torch.enable_grad():
        found = [f(t)]
        if found[0].shape != t.shape:
            raise SettingInvalid(
                f"The function of a law maps {list(t.shape)} to {list(found[0].shape)}; it must have one output for a time."
            )
        for _ in range(order):
            total = found[-1].sum()
            slope = torch.zeros_like(t)  # of a constant
            if total.requires_grad:
                (slope,) = torch.autograd.grad(total, t, create_graph=True, materialize_grads=True)
            found.append(slope)
    return found


@dataclass(frozen=True)
class Law(Part, ABC):
    """Base of differential equations: a subclass defines `residual`, zero where a function obeys it.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.train import Law, derivatives
    >>> @dataclass(frozen=True)
    ... class Decay(Law):
    ...     rate: float = 1.0
    ...     def residual(self, f, t):
    ...         u, slope = derivatives(f, t, 1)
    ...         return slope + self.rate * u
    >>> t = torch.linspace(0, 1, 5)[:, None]
    >>> bool(Decay(2.0).residual(lambda t: (-2 * t).exp(), t).abs().max() < 1e-6)
    True
    """

    @abstractmethod
    def residual(self, f: Function, t: Tensor) -> Tensor:
        """The residual of the function at times t [point, 1], with a graph to what f holds: [point, 1]."""


@dataclass(frozen=True)
class Oscillator(Law):
    """The damped oscillator, u'' + 2 damping u' + omega^2 u = 0, divided by omega^2 so that the residual is in u's units.

    >>> import torch
    >>> from cloche.train import Oscillator
    >>> t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> bool(Oscillator(omega=3.0, damping=0.0).residual(lambda t: (3 * t).cos(), t).abs().max() < 1e-12)
    True
    """

    omega: float = 10.0
    damping: float = 1.0

    def __post_init__(self) -> None:
        positive(self, omega=self.omega)
        within(self, damping=(0, 1e9))

    def residual(self, f: Function, t: Tensor) -> Tensor:
        u, slope, bend = derivatives(f, t, 2)
        return (bend + 2 * self.damping * slope) / self.omega**2 + u


@dataclass(frozen=True)
class PhysicsResidual(Penalty):
    """Mean squared residual of a law at `points` times spread evenly from `start` to `stop`, where the network is the
    function (Raissi, Perdikaris & Karniadakis 2019).

    >>> import torch
    >>> from cloche.train import Oscillator, PhysicsResidual
    >>> penalty = PhysicsResidual(law=Oscillator(omega=10.0), weight=0.1)
    >>> still = torch.nn.Linear(1, 1)
    >>> _ = torch.nn.init.zeros_(still.weight), torch.nn.init.constant_(still.bias, 2.0)
    >>> penalty.value(still, {}).item()  # u = 2 everywhere
    4.0
    """

    law: Law = field(default=Oscillator(), kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    stop: float = field(default=1.0, kw_only=True)
    points: int = field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, points=self.points)
        within(self, start=(-1e9, 1e9), stop=(-1e9, 1e9))
        if self.start >= self.stop:
            raise SettingInvalid(
                f"PhysicsResidual(start={self.start:g}, stop={self.stop:g}) holds no time; let start be less."
            )

    def check(self, net: nn.Module) -> None:
        if isinstance(net, Network):
            raise ModelUnsupported(
                "PhysicsResidual is about functions of time, and a language model reads tokens: leave it out, or train "
                "a module that maps times [point, 1] to values [point, 1] in a Loop of your own."
            )

    def value(self, net: nn.Module, hidden: Mapping[str, Tensor]) -> Tensor:
        like = next(net.parameters())
        t = torch.linspace(self.start, self.stop, self.points, dtype=like.dtype, device=like.device)
        return self.law.residual(net, t[:, None]).square().mean()
