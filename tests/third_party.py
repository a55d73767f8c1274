"""Parts as a third party would write them in a module of their own: nothing of the package knows them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.model import Block, Body, Causal, Declared, Iterated, Linear, Mask, Mixer, Module
from cloche.model.sites import each_token


@dataclass(frozen=True)
class Convolution(Mixer):
    """Each channel mixes a token with the `size - 1` before it. Its site conv_out is what its output matrix reads."""

    size: int = 3

    @property
    def mask(self) -> Mask:  # type: ignore[override]
        return Causal()

    def build(self, width: int, std: float) -> Module:
        return _Convolution(self, width, std)

    def flops_per_token(self, width: int, length: int) -> float:
        return 2.0 * self.size * width


class _Convolution(Module):
    def __init__(self, part: Convolution, width: int, std: float) -> None:
        super().__init__()
        self.part, self.size = part, part.size
        self.kernel = self.declare("kernel", (width, part.size), Declared(std=part.size**-0.5, group="vector"))
        self.out = Linear(width, width, std * width**-0.5)
        self.declare_site("conv_out", each_token(width=width))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, self.kernel.shape[0], self.size - 1)

    def forward(self, x: Tensor, context: Any, layer: int, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        real = (context.positions >= 0)[..., None]
        before = x.new_zeros(x.shape[0], x.shape[2], self.size - 1) if state is None else state.to(x.dtype)
        seen = torch.cat([before, (x * real).mT], -1)  # [batch, width, position]
        mixed = F.conv1d(seen, self.kernel[:, None], groups=x.shape[2])
        mixed = context.record("conv_out", layer, mixed.mT)
        return self.out(mixed), None if state is None else seen[..., 1 - self.size :]


@dataclass(frozen=True)
class Loop(Body):
    """One block, `times` times over."""

    times: int
    block: Block

    def resolved(self, width: int) -> Loop:
        return dataclasses.replace(self, block=self.block.resolved(width))

    def build(self, width: int, std: float) -> Iterated:
        return _Loop(self, width, std)


class _Loop(Iterated):
    def __init__(self, part: Loop, width: int, std: float) -> None:
        super().__init__()
        self.block = part.block.build(width, std * (2 * part.times) ** -0.5)
        self.layers = [self.block] * part.times

    def named(self, iteration: int) -> str:
        return f"pass {iteration}"


@dataclass(frozen=True)
class TwoSpeed(Body):
    """Two streams: `steps` times the fast one moves, reading the input and the slow one, then the slow one moves once, reading
    the fast one; `cycles` times over. The slow stream is read out."""

    cycles: int
    steps: int
    fast: Block
    slow: Block

    def resolved(self, width: int) -> TwoSpeed:
        return dataclasses.replace(self, fast=self.fast.resolved(width), slow=self.slow.resolved(width))

    def build(self, width: int, std: float) -> Iterated:
        return _TwoSpeed(self, width, std)


class _TwoSpeed(Iterated):
    def __init__(self, part: TwoSpeed, width: int, std: float) -> None:
        super().__init__()
        self.period = part.steps + 1
        share = std * (2 * part.cycles * self.period) ** -0.5
        self.fast, self.slow = part.fast.build(width, share), part.slow.build(width, share)
        self.layers = [*[self.fast] * part.steps, self.slow] * part.cycles

    def named(self, iteration: int) -> str:
        cycle, step = divmod(iteration, self.period)
        return f"slow {cycle}" if step == self.period - 1 else f"fast {cycle}.{step}"

    def forward(
        self, x: Tensor, context: Any, states: list[Any] | None, start: int, stop: int
    ) -> tuple[Tensor, list[Any] | None]:
        """Between iterations: [batch, position, 3 (the input, the fast stream, the slow one), width]."""
        streams = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], 2) if start == 0 else x
        for i in range(start, stop):
            given, fast, slow = streams.unbind(2)
            block, state = self.layers[i], None if states is None else states[i]
            if block is self.slow:
                slow, state = block(slow + fast, context, i, state)
            else:
                fast, state = block(fast + slow + given, context, i, state)
            if states is not None:
                states[i] = state
            streams = torch.stack([given, fast, slow], 2)
        return streams if stop < len(self.layers) else streams[:, :, 2], states
