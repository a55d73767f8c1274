"""Parts as a third party would write them in a module of their own: nothing of the package knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.model import Causal, Mask, Mixer
from cloche.model.declare import Declared, Linear, Module
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
        mixed = context.tape("conv_out", layer, mixed.mT)
        return self.out(mixed), None if state is None else seen[..., 1 - self.size :]
