"""Parts that break a run on purpose. They are of a third party's kind: a recipe that names them is opened with `--import
bench.diagnose.planted`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cloche.model import Declared, FanIn, Initialisation, Network
from cloche.train import WSD, AdamW, Optimizer, Schedule

MANTISSA = 23  # bits of a float32


@dataclass(frozen=True)
class Louder(Initialisation):
    """Another initialisation's matrices times `gain`; or only those that write to the stream."""

    gain: float = 4.0
    branches: bool = False
    initialisation: Initialisation = FanIn()

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        values = self.initialisation.weights(normal, declared, net)
        louder = declared.shard == "columns" if self.branches else declared.group == "matrix"
        return values * self.gain if louder else values


@dataclass(frozen=True)
class Coarse(Optimizer):
    """Another optimiser whose weights have `bits` bits of mantissa after each step. up: they are rounded away from zero, as
    biased arithmetic does, and so grow; else to the nearest."""

    optimizer: Optimizer = AdamW()
    bits: int = 6
    up: bool = True
    lr: float = field(default=1e-3, kw_only=True)

    def limits(self) -> dict[str, tuple[float, float]]:
        return self.optimizer.limits()

    @property
    def carries_groups(self) -> bool:  # type: ignore[override]
        return self.optimizer.carries_groups

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        parts = self.optimizer.build(net, dtype)
        for part in parts:
            part.register_step_post_hook(self._round)
        return parts

    @torch.no_grad()
    def _round(self, part: torch.optim.Optimizer, *_: Any) -> None:
        drop = MANTISSA - self.bits
        for p in (p for group in part.param_groups for p in group["params"] if p.ndim > 1):
            bits = p.view(torch.int32)
            bits += (1 << drop) - 1 if self.up else 1 << (drop - 1)
            bits &= -(1 << drop)


@dataclass(frozen=True)
class Rising(Schedule):
    """Another schedule whose rate doubles every `doubling` updates from the share `start` of the run on, up to `most` times
    what it was: a peak that is too high, reached slowly."""

    schedule: Schedule = WSD()
    start: float = 0.4
    doubling: float = 12.0
    most: float = 100.0

    def rate(self, step: float, steps: int) -> float:
        begun = max(0.0, step - self.start * steps)
        return self.schedule.rate(min(step, self.start * steps), steps) * min(self.most, 2 ** (begun / self.doubling))

    def after(self, step: float, rising: int, steps: int) -> float:
        return self.schedule.after(step, rising, steps)
