"""Which heads differ from those of untrained models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cloche.drawing import student_quantile

SIGNED = ("copying", "ablated")
LEVEL = 0.05  # of untrained models have a head that is reported


def beyond_chance(found: Mapping[str, Tensor], untrained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each score, which heads [layer, head] have more of it than the heads of untrained models, [model, layer, head]; of
    those that may be negative, copying and ablated, more or less.

    The limit is Student's for one more head, corrected for the number of heads and scores (Bonferroni). Shares of attention
    are compared as logarithms, in which those of untrained heads are close to normal.
    """
    tests = sum(int((~values.isnan()).sum()) for values in found.values())
    return {name: _beyond(values, untrained[name], name in SIGNED, tests) for name, values in found.items()}


def _beyond(values: Tensor, untrained: Tensor, both_sides: bool, tests: int) -> Tensor:
    own, null = (each.double() if both_sides else each.double().clamp_min(1e-12).log() for each in (values, untrained))
    null = null[~null.isnan()]
    if len(null) < 2:
        return torch.zeros_like(values, dtype=torch.bool)
    limit = student_quantile(1 - LEVEL / tests / (2 if both_sides else 1), len(null) - 1)
    above = (own - null.mean()) / (null.std() * (1 + 1 / len(null)) ** 0.5).clamp_min(1e-12)
    return (above.abs() if both_sides else above).nan_to_num(0.0) > limit
