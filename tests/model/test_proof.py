"""Sites prove themselves when a model is loaded: what is right passes, and what is wrong is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from combinations import NUMBERS, VOCAB, combination, lively, random_ids
from torch import Tensor

import cloche
from cloche.errors import SitesWrong, SiteUnsuitable
from cloche.model import GLU, LM, MLP, Attention, Block, RoPE, Stack, save_network
from cloche.model.sites import Key, PlanRecorder, Proof
from cloche.model.sites.proof import prove_sites
from cloche.model.sites.vocabulary import AXES
from third_party import Convolution, Loop, TwoSpeed


def record(monkeypatch: pytest.MonkeyPatch, key: Key, wrong: Callable[[dict[Key, Tensor]], Tensor]) -> None:
    """Have every pass record at `key` what `wrong` makes of what was recorded until then, and go on with what is right."""
    right = PlanRecorder.__call__

    def call(self: PlanRecorder, name: str, layer: int | None, value: Tensor) -> Tensor:
        out = right(self, name, layer, value)
        if (name, layer) == key and key in self.kept:
            self.kept[key] = wrong(self.kept)
        return out

    monkeypatch.setattr(PlanRecorder, "__call__", call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", NUMBERS[::5])
def test_a_right_model_proves_every_site(number: int, dtype: torch.dtype) -> None:
    net = lively(combination(number)).to(dtype)
    assert set(prove_sites(net)) == set(map(str, net.sites))


def test_what_is_wrong_is_named_on_loading_and_may_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = lively(combination(0))
    save_network(net, tmp_path)
    record(monkeypatch, ("mlp_pre", 1), lambda kept: 2 * kept["mlp_pre", 1])
    with pytest.raises(SitesWrong, match=r"mlp_pre\[1\] is not what .* off by 1 of its size \(1e-05 is rounding\)"):
        cloche.load(tmp_path)
    assert torch.equal(cloche.load(tmp_path, check_sites=False).net(random_ids(1, 5)), net(random_ids(1, 5)))


def test_a_view_is_saved_and_not_edited() -> None:
    net, ids = lively(combination(0)), random_ids(2, 6)
    site = net.sites.head_out[1]
    result = net.run(ids, save=[site, "attn_out[1]"])
    bias = net.layers[1].mix.out.bias
    whole = result[site].sum(2) + (0 if bias is None else bias)
    torch.testing.assert_close(whole, result["attn_out[1]"], rtol=1e-5, atol=1e-5)
    assert site.head(0).axes == ("batch", "position", "width") and "head" in AXES["head_out"]
    for act in (lambda edit: net.run(ids, edits=[edit]), lambda edit: net.sweep(ids, [edit], read=lambda x: x)):
        with pytest.raises(SiteUnsuitable, match=r"head_out\[1\] is .* edit z instead"):
            act(site.head(0).zero())


@pytest.mark.parametrize("body", ["loop", "two speeds"])
def test_the_blocks_of_a_third_partys_body_prove_themselves(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every iteration, all but the stream that the body hands to a block."""
    block = Block(Attention(2, position=RoPE()), GLU(hidden=9))
    net = lively(LM(VOCAB, 12, Loop(3, block) if body == "loop" else TwoSpeed(1, 2, block, block)))
    left = {str(site) for site in net.sites} - set(prove_sites(net))
    assert left == {"final_scale", "final_norm", *(f"resid_pre[{i}]" for i in range(3))}
    record(monkeypatch, ("v", 2), lambda kept: kept["v", 1])
    with pytest.raises(SitesWrong, match=r"v\[2\] is not what"):
        prove_sites(net)


def test_a_third_partys_mixer_may_prove_its_own_site(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Block(Convolution(), MLP(hidden=9)), Block(ProvenConvolution(), MLP(hidden=9))
    net = lively(LM(VOCAB, 12, Stack(2, blocks)))
    left = {str(site) for site in net.sites} - set(prove_sites(net))
    assert left == {"conv_out[0]", "attn_out[0]"}
    record(monkeypatch, ("conv_out", 1), lambda kept: 1.01 * kept["conv_out", 1])
    with pytest.raises(SitesWrong, match=r"conv_out\[1\] is not what"):
        prove_sites(net)


@dataclasses.dataclass(frozen=True)
class ProvenConvolution(Convolution):
    """Which says once more what it computes."""

    def prove(self, x: Tensor, proof: Proof) -> Tensor:
        kernel, length = proof.vector("kernel"), x.shape[1]
        past = [torch.cat([torch.zeros_like(x[:, :n]), x[:, : length - n]], 1) for n in range(kernel.shape[1])]
        mixed = torch.stack([kernel[:, -1 - n] * tokens for n, tokens in enumerate(past)]).sum(0)
        return proof.linear("out", proof("conv_out", mixed))


def test_numbers_too_small_to_be_precise_are_no_fault() -> None:
    """Below float16's normal numbers rounding is as large as the numbers: a model of tiny weights is a right one."""
    for number in NUMBERS[::9]:
        net = lively(combination(number))
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.02)
        prove_sites(net.to(torch.float16))
