"""Sums that direct contributions must have in every model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cloche
from cloche.interp import logit_attribution
from cloche.model import MoE, Network


def ways(net: Network) -> list[str]:
    experts = any(isinstance(block.part.map, MoE) for block in net.layers)
    return ["component", "head", "neuron", *(["expert"] if experts else [])]


def difference(net: Network, ids: list[int], token: int, against: int, *edits: Any, position: int = -1) -> float:
    """The logit difference before a soft cap, from the definition."""
    site = net.sites.final_norm
    with torch.no_grad():
        row = net.run([ids], save=[site], edits=edits)[site][0, position].double()
        head = net.unembed
        bias = torch.zeros(net.spec.vocab) if head.bias is None else head.bias
        logits = head.weight.double() @ row + bias.double()
    return float(logits[token] - logits[against])


def total(finding: Any) -> float:
    return float(finding.arrays["direct"].sum()) + finding.data["constant"] + finding.data["rest"]


def check_sums(net: Network, ids: list[int], position: int = -1) -> None:
    token, against = 5, 11
    wanted = difference(net, ids, token, against, position=position)
    layers = range(len(net.layers))
    glass, whole = cloche.Glass(net), {}
    for by in ways(net):
        finding = logit_attribution(glass, ids, token, against, by=by, position=position, ablate="none")  # type: ignore[arg-type]
        assert finding.figures["difference"] == pytest.approx(wanted, rel=1e-5)
        assert total(finding) == pytest.approx(wanted, rel=1e-5), by
        at = dict(zip(finding.data["names"], finding.arrays["direct"].tolist(), strict=True))
        whole = whole or at
        if finding.data["rest"] == 0 and not any(block.part.post for block in net.layers):
            for layer in layers:
                for site, inside in ((f"attn_out[{layer}]", f"z[{layer}]"), (f"mlp_out[{layer}]", f"mlp_act[{layer}]")):
                    summed = sum(value for name, value in at.items() if name.startswith((site, inside)))
                    assert summed == pytest.approx(whole[site], abs=1e-5 * sum(map(abs, whole.values()))), (by, site)
        same = logit_attribution(glass, ids, token, token, by=by, position=position)  # type: ignore[arg-type]
        assert not same.arrays["direct"].any() and not same.arrays["ablated"].any()
        assert same.figures["largest"] == same.figures["difference"] == total(same) == 0
