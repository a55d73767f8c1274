"""Rotary frequencies for texts longer than those a model was first trained on, as `transformers` defines them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SettingConflict, SettingRange
from cloche.part import LARGEST, SMALLEST, Part, positive


class Scaling(Part):
    """A change of RoPE's frequencies.

    >>> import torch
    >>> from cloche.model import LinearScaling
    >>> LinearScaling(factor=4.0).scaled(torch.tensor([1.0, 0.5]), theta=10_000.0, positions=torch.tensor([[0, 1]]))
    tensor([0.2500, 0.1250])
    """

    def check(self, size: int) -> None:
        """Raise ClocheError when `size` rotated numbers a head cannot be scaled so."""

    def scaled(self, speeds: Tensor, theta: float, positions: Tensor) -> Tensor:
        """The frequencies [pair], radians a position, in place of `speeds`, which theta made, for a pass over `positions`."""
        raise TypeError(f"{type(self).__name__} must define scaled(speeds, theta, positions)")

    @property
    def strength(self) -> float:
        """What cos and sin, and so q and k, are multiplied by."""
        return 1.0


@dataclass(frozen=True)
class LinearScaling(Scaling):
    """Every position divided by `factor`: position interpolation (Chen et al. 2023, 2306.15595).

    >>> from cloche.model import LinearScaling, RoPE
    >>> RoPE(scaling=LinearScaling(factor=4.0)).scaling.factor
    4.0
    """

    factor: float

    def __post_init__(self) -> None:
        positive(self, factor=self.factor)

    def scaled(self, speeds: Tensor, theta: float, positions: Tensor) -> Tensor:
        return speeds / self.factor


@dataclass(frozen=True)
class DynamicScaling(Scaling):
    """A larger theta once a pass reaches beyond `length` positions, the larger the further (dynamic NTK).

    All positions of a pass turn by the furthest one's frequencies. So, beyond `length`, what an early token computes depends
    on how long its text is, and generation, which rotated its cached keys earlier, is not the pass over the whole text.

    >>> from cloche.model import DynamicScaling, RoPE
    >>> RoPE(scaling=DynamicScaling(factor=2.0, length=2048)).scaling.length
    2048
    """

    factor: float
    length: int

    def __post_init__(self) -> None:
        positive(self, factor=self.factor, length=self.length)

    def check(self, size: int) -> None:
        if size < 4:
            raise SettingConflict("DynamicScaling needs at least 4 rotated numbers a head; choose larger heads.")

    def scaled(self, speeds: Tensor, theta: float, positions: Tensor) -> Tensor:
        reached = (positions.max() + 1).clamp(min=self.length)
        growth = self.factor * reached / self.length - (self.factor - 1)
        pairs = torch.arange(len(speeds), device=speeds.device, dtype=torch.float32)
        return speeds * growth ** (-pairs / (len(speeds) - 1))


@dataclass(frozen=True)
class Llama3Scaling(Scaling):
    """Wavelengths above length / low divided by `factor`, those below length / high kept, a blend between (Llama 3.1).

    >>> from cloche.model import Llama3Scaling, RoPE
    >>> RoPE(theta=500_000, scaling=Llama3Scaling()).scaling.length
    8192
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192

    def __post_init__(self) -> None:
        positive(self, factor=self.factor, low=self.low, high=self.high, length=self.length)
        if self.low >= self.high:
            raise SettingConflict(f"Llama3Scaling(low={self.low}, high={self.high}): low must be below high.")

    def scaled(self, speeds: Tensor, theta: float, positions: Tensor) -> Tensor:
        turns = self.length * speeds / (2 * math.pi)  # in the length first trained on
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - kept) * speeds / self.factor + kept * speeds


@dataclass(frozen=True)
class YaRN(Scaling):
    """Slow pairs divided by `factor`, fast ones kept, a ramp over the pairs between (Peng et al. 2023, 2309.00071).

    fast, slow: turns within `length` from which a pair counts as such. attention: the strength of q and k,
    0.1 ln(factor) + 1 unless given. whole: the ramp begins and ends at whole pairs.

    >>> from cloche.model import RoPE, YaRN
    >>> RoPE(scaling=YaRN(factor=4.0, length=4096)).scaling.fast
    32.0
    """

    factor: float
    length: int
    attention: float | None = None
    fast: float = 32.0
    slow: float = 1.0
    whole: bool = True

    def __post_init__(self) -> None:
        positive(self, factor=self.factor, length=self.length, attention=self.attention, fast=self.fast, slow=self.slow)

    @property
    def strength(self) -> float:
        if self.attention is not None:
            return self.attention
        return self.grown(self.factor)

    @staticmethod
    def grown(factor: float, scale: float = 1.0) -> float:
        """The strength the paper found for texts `factor` times as long."""
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    def scaled(self, speeds: Tensor, theta: float, positions: Tensor) -> Tensor:
        size = 2 * len(speeds)

        def pair(turns: float) -> float:
            """The pair, as a fraction, that turns so often within `length`."""
            return size * math.log(self.length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = pair(self.fast), pair(self.slow)
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        pairs = torch.arange(len(speeds), device=speeds.device, dtype=torch.float32)
        slowed = ((pairs - first) / (last - first if last != first else 0.001)).clamp(0, 1)
        return speeds / self.factor * slowed + speeds * (1 - slowed)


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """Each pair divided by a factor of its own: `short` while a pass stays within `length`, else `long` (2402.13753).

    attention: the strength of q and k. A text that crosses `length` while it is generated keeps its cached keys as they were.

    >>> from cloche.model import LongRoPE
    >>> LongRoPE(short=(1.0, 1.0), long=(1.0, 4.0), length=4096).long
    (1.0, 4.0)
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    length: int
    attention: float = 1.0

    def __post_init__(self) -> None:
        positive(self, length=self.length, attention=self.attention)
        self.check_fields(type(self).__name__)
        if not all(SMALLEST <= factor <= LARGEST for factor in (*self.short, *self.long)):
            raise SettingRange("LongRoPE's factors must be finite numbers above zero.")

    def check(self, size: int) -> None:
        if len(self.short) != size // 2 or len(self.long) != size // 2:
            raise SettingConflict(f"LongRoPE needs {size // 2} short and as many long factors, one a rotated pair.")

    @property
    def strength(self) -> float:
        return self.attention

    def scaled(self, speeds: Tensor, theta: float, positions: Tensor) -> Tensor:
        short, long = (torch.tensor(factors, device=speeds.device) for factors in (self.short, self.long))
        return speeds / torch.where(positions.max() >= self.length, long, short)
