"""On a linear model every attribution is exact, so all of them agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from linear_fixture import linear_glass

import cloche
from cloche.interp import (
    JacobianConfig,
    activation_patching,
    attribution_patching,
    fit_jacobian,
    logit_attribution,
    path_patching,
    relevance_patching,
    token_attribution,
)
from cloche.tasks import PromptPair

TASK = PromptPair("ab cd", "xb ce", "x", "y")


@pytest.fixture(scope="module")
def glass() -> cloche.Glass:
    return linear_glass()


def exact(glass: cloche.Glass, site: str, direction: str) -> np.ndarray:
    return activation_patching(glass, TASK, site=site, direction=direction).arrays["effects"][0]  # type: ignore[arg-type]


def test_the_pattern_is_fixed_and_no_two_heads_have_the_same(glass: cloche.Glass) -> None:
    one, other = (glass.net.run([ids], save="pattern[0]")["pattern[0]"][0] for ids in ([1, 2, 3], [7, 8, 9]))
    assert (one == other).all() and (one[0] - one[1]).abs().max() > 0.1 and one.triu(1).abs().max() == 0


@pytest.mark.parametrize("site", ["resid_pre", "attn_in", "v", "z", "attn_out", "mlp_act", "mlp_out", "resid_post"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("method", [attribution_patching, relevance_patching])
def test_first_order_effects_are_exact(
    glass: cloche.Glass, method: Callable[..., cloche.Finding], direction: str, site: str
) -> None:
    finding = method(glass, TASK, site=site, direction=direction)
    assert finding.arrays["effects"][0] == pytest.approx(exact(glass, site, direction), abs=1e-6)
    assert finding.figures["agreement"] == pytest.approx(1) and finding.figures["sign_errors"] == 0


@pytest.mark.parametrize("method", ["integrated", "input_x_gradient", "relevance"])
def test_every_gradient_gives_each_token_its_effect(glass: cloche.Glass, method: str) -> None:
    finding = token_attribution(glass, TASK, steps=1)
    tokens = finding.arrays[method] / finding.figures["total"]
    assert tokens == pytest.approx(exact(glass, "resid_pre", "denoise")[0], abs=1e-6)
    assert tokens.sum() == pytest.approx(1)


def edges(glass: cloche.Glass, receiver: str, mode: str) -> dict[tuple[str, str], float]:
    finding = path_patching(glass, TASK, receiver=receiver, mode=mode)  # type: ignore[arg-type]
    senders, receivers = finding.data["senders"], finding.data["receivers"]
    values = finding.arrays["effects"][0]
    return {
        (s, r): values[i, j]
        for i, s in enumerate(senders)
        for j, r in enumerate(receivers)
        if not np.isnan(values[i, j])
    }


def test_the_edges_out_of_a_component_add_up_to_its_patch(glass: cloche.Glass) -> None:
    found = edges(glass, "all", "free")
    heads = exact(glass, "z", "denoise")
    for sender, whole in {"embed": 1.0, "z[0].head(1)": heads[0, 1], "z[1].head(3)": heads[1, 3]}.items():
        assert sum(value for (s, _), value in found.items() if s == sender) == pytest.approx(whole, abs=1e-6)


def test_edges_into_the_logits_are_differences_of_direct_contributions(glass: cloche.Glass) -> None:
    found = edges(glass, "logits", "free")
    clean, corrupted = (
        logit_attribution(glass, prompt, "x", "y", by="head", ablate="none") for prompt in (TASK.clean, TASK.corrupted)
    )
    apart = clean.figures["difference"] - corrupted.figures["difference"]
    change = (clean.arrays["direct"] - corrupted.arrays["direct"]) / apart
    for name, value in zip(clean.data["names"], change, strict=True):
        sender = "embed" if name == "token embedding" else name
        if (sender, "logits") in found:
            assert value == pytest.approx(found[sender, "logits"], abs=1e-6), name
    assert sum(found.values()) == pytest.approx(change.sum()) == pytest.approx(1), (
        "all writers together are the whole change"
    )


def test_the_jacobian_lens_gives_what_patching_a_layer_changes(glass: cloche.Glass) -> None:
    """Of a single token, whose later positions are left out of the mean."""
    a, b, x, y = (glass.tokenizer.encode(letter)[0] for letter in "abxy")
    net = glass.net
    weight = fit_jacobian(glass, [torch.tensor([[a, b]])], JacobianConfig(cotangents=0)).maps["Jacobian lens"].weight
    assert weight is not None
    finding = activation_patching(glass, PromptPair("a", "b", "x", "y"))
    effects = finding.arrays["effects"][0, :, 0] * (finding.figures["clean"] - finding.figures["corrupted"])
    u = (net.unembed_weight()[x] - net.unembed_weight()[y]).detach().double()
    clean, corrupted = (net.run([[token]], save="resid_pre.all")["resid_pre.all"][:, 0, 0] for token in (a, b))
    through = u + torch.einsum("o,loi->li", u, weight.double())  # J is I and the weight
    assert (through * (clean - corrupted)).sum(1).tolist() == pytest.approx(effects, abs=1e-6)
