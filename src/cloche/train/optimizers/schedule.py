"""When things happen in a run: the learning rate, and the steps of checkpoints, validations and samples. Pure functions."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "wsd"]


def rate(step: int, steps: int, shape: Shape, warmup: float, decay: float, final: float) -> float:
    """The learning rate of update `step` (0 .. steps - 1) as a share of its peak.

    It rises linearly over the first `warmup` share of all steps; then "cosine" falls to `final` over all that is left
    (Loshchilov & Hutter, 1608.03983), and "wsd" holds and falls linearly over the last `decay` share (2404.06395).
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if shape == "cosine":
        done = (step - rising) / max(1, steps - rising)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
    falling = min(math.ceil(decay * steps), steps - rising)
    left = steps - step  # 1 at the last update
    return 1.0 if left > falling else final + (1 - final) * left / falling


def milestones(steps: int, count: int, early: bool = False) -> list[int]:
    """About `count` distinct steps in 1 .. steps, the last always among them.

    Evenly spaced, or, with `early`, half of them spaced by factors of two to four before the first even one: most of what
    a model learns it learns at once, and that is when one wants to look.
    """
    if not early or count < 4:
        return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})
    even = count // 2
    first = max(1, round(steps / even))
    logarithmic = count - even
    begin = max(1, round(first / 4**logarithmic), min(8, first))
    growth = (first / begin) ** (1 / logarithmic)
    steps_early = [max(1, round(begin * growth**i)) for i in range(logarithmic)]
    return sorted({*steps_early, *milestones(steps, even)})
