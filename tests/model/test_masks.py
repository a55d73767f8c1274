"""Masks against their definitions, spelled out position by position."""

from __future__ import annotations

import pytest
import torch

from cloche.model import Causal, Full, Mask, Window

RULES = {
    "causal": (Causal(), lambda q, k: k <= q, True),
    "full": (Full(), lambda q, k: True, False),
    "window": (Window(3), lambda q, k: abs(q - k) < 3, False),
    "sliding": (Causal() & Window(3), lambda q, k: k <= q and q - k < 3, True),
    "either": (Causal() | Window(2), lambda q, k: k <= q or abs(q - k) < 2, False),
    "nested": ((Causal() | Full()) & Causal(), lambda q, k: k <= q, True),
}


@pytest.mark.parametrize("name", RULES)
def test_mask(name: str) -> None:
    mask, rule, causal = RULES[name]
    positions = torch.arange(2, 9)
    seen = mask.allows(positions[:, None], positions[None, :]).expand(7, 7)
    assert seen.tolist() == [[rule(q, k) for k in range(2, 9)] for q in range(2, 9)]
    assert mask.causal is causal


def test_a_mask_without_a_rule_says_so() -> None:
    with pytest.raises(TypeError, match="must define allows"):
        Mask().allows(torch.zeros(1), torch.zeros(1))
