"""The frozen linear model: its adjoint is the gradient through a network in which all that it holds fixed is detached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import third_party
from cloche import GLU, LM, MLP, Attention, Block, LayerNorm, RoPE, Stack, Window
from cloche.errors import ArgumentInvalid, ClocheError, ModelUnsupported, SiteUnsuitable
from cloche.interp import FrozenModel
from cloche.model import (
    AllHeads,
    Causal,
    ClampedGLU,
    Learned,
    MoE,
    Network,
    NoNorm,
    ParallelBlock,
    RectifiedNorm,
    RMSNorm,
    ScoredAttention,
    Shifted,
    Unembed,
    ZeroCenteredRMSNorm,
    load_network,
)

GROUPED = Attention(4, kv_heads=2, position=RoPE(), mask=Causal() & Window(3))
CAPPED = ScoredAttention(GROUPED, scale=0.4, cap=2.0)
SINKS = ScoredAttention(Attention(4, kv_heads=1, bias=True), sinks=True)
CENTRED = ZeroCenteredRMSNorm()
TREES = {
    "llama": LM(40, 32, Stack(2, Block(GROUPED, GLU(hidden=24)))),
    "gpt2": LM(
        40, 32, Stack(2, Block(Attention(4, bias=True), MLP(bias=True), LayerNorm())), LayerNorm(), position=Learned(9)
    ),
    "neox": LM(40, 32, Stack(2, ParallelBlock(Attention(4, bias=True), MLP(bias=True), LayerNorm())), LayerNorm()),
    "gemma2": LM(40, 32, Stack(2, Block(CAPPED, GLU("gelu_tanh"), CENTRED, CENTRED)), CENTRED, Unembed(cap=3.0)),
    "olmo2": LM(40, 32, Stack(2, Block(Attention(4, qk_norm=AllHeads()), GLU(hidden=24), NoNorm(), RMSNorm()))),
    "gpt_oss": LM(40, 32, Stack(2, Block(SINKS, MoE(4, 2, ClampedGLU(hidden=16, bias=True, limit=0.5))))),
    "shifted": LM(
        40, 32, Stack(2, Block(GROUPED, MLP(Shifted("relu", 0.1)), RectifiedNorm(shift=0.2))), head=Unembed(bias=True)
    ),
    "loop": LM(40, 32, third_party.Loop(2, Block(Attention(4), MLP("sigmoid", bias=True)))),
}
IDS = torch.tensor([[3, 9, 17, 4, 9], [5, 1, 1, 30, 2]])
NAMES = ("resid_pre", "attn_in", "v", "z", "attn_out", "mlp_in", "mlp_out", "resid_post")
GATES = ("half", "fixed")


def built(name: str) -> Network:
    net = TREES[name].build(seed=3).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():  # no bias or gain stays where it hides a mistake
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return net


def secant(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f, whose slope is that of the line from its value at 0."""
    zero = torch.zeros(1, dtype=torch.float64)
    return lambda x: ((f(x) - f(zero)) / x).detach() * x + f(zero)


def maps_of(net: Network) -> Iterator[Any]:
    for layer in {id(layer): layer for layer in net.layers}.values():
        yield from getattr(layer.map, "experts", [layer.map])


def detached(net: Network, gates: str) -> list[Any]:
    """Makes the network's own parts hold fixed what the linear model does; returns edits that detach patterns and scales."""
    for layer in {id(layer): layer for layer in net.layers}.values():
        for post in (layer.mix_post, layer.map_post):
            if post is not None:
                post.forward = lambda x, norm=post: norm.divided(x, norm.scale(x).detach())
        if hasattr(layer.map, "experts"):
            weights = layer.map.weights
            layer.map.weights = lambda p, weights=weights: weights(p).detach()
    for module in maps_of(net):
        if not module.rows:  # not gated
            module.f = secant(module.f)
        else:
            module.forward = lambda x, context, layer, m=module: (
                m.outer(context.record("mlp_act", layer, product(m, x, gates))),
                {},
            )
    sites = net.sites
    names = [name for name in ("attn_scale", "mlp_scale") if name in sites.names]
    held = [site for name in names for site in getattr(sites, name)] + list(sites.pattern)
    apart = [
        site.apply(Tensor.clone) for site in (*sites.attn_in, *sites.mlp_in)
    ]  # without a norm it is the stream itself
    return [*apart, *(site.apply(Tensor.detach) for site in [*held, sites.final_scale])]


def product(module: Any, x: Tensor, gates: str) -> Tensor:
    """act = f(g) h(u) of a gated MLP, by the rule."""
    g, u = module.inner(x).chunk(2, -1)
    if gates == "fixed":
        return module.gate(g).detach() * secant(module.up)(u)
    start = module.up(torch.zeros_like(u))
    left, right = secant(module.gate)(g), secant(module.up)(u) - start  # f(0) = 0 for all gates here
    return (left.detach() * right + left * right.detach()) / 2 + left * start


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("name", TREES)
def test_the_adjoint_is_the_gradient_of_a_detached_forward_pass(name: str, gates: Any) -> None:
    check(built(name), gates)


def check(net: Network, gates: Any, ids: Tensor = IDS) -> None:
    sites = net.sites
    neurons = "mlp_act" in sites.names
    asked = [sites.embed, *(site for each in (*NAMES, *["mlp_act"] * neurons) for site in getattr(sites, each))]
    frozen = FrozenModel.over(net, ids, save=[sites.embed], gates=gates)
    plain = net.run(ids, save=[sites.final_norm])
    logits = torch.nn.functional.linear(plain[sites.final_norm], net.unembed_weight(), net.unembed.bias)  # type: ignore[arg-type]
    assert (frozen.logits - logits).abs().max() < 1e-12
    draw = torch.Generator().manual_seed(1)
    last = torch.randn(2, *logits.shape, generator=draw, dtype=torch.float64)
    inside = torch.randn(2, *plain[sites.final_norm].shape, generator=draw, dtype=torch.float64)
    found = frozen.adjoint({sites.logits: last, sites.mlp_out[0]: inside}, asked)

    run = net.run(ids, save=[*asked, sites.final_norm], edits=detached(net, gates), grad=True)
    again = torch.nn.functional.linear(run[sites.final_norm], net.unembed_weight(), net.unembed.bias)  # type: ignore[arg-type]
    assert (again - logits).abs().max() < 1e-12, "the frozen forward pass gives the true logits"
    for i in range(2):
        value = (again * last[i]).sum() + (run[sites.mlp_out[0]] * inside[i]).sum()
        wanted = torch.autograd.grad(value, [run[site] for site in asked], create_graph=True)
        for site, gradient in zip(asked, wanted, strict=True):
            assert (found[site][i] - gradient).abs().max() < 1e-10, site
        first = wanted[0]
        if first.requires_grad:
            (second,) = torch.autograd.grad(
                first.square().sum(), run[sites.embed], allow_unused=True, retain_graph=True
            )
            assert second is None or not second.any(), "second derivatives are 0"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(14 * 2))
def test_the_adjoint_is_that_gradient_in_every_family(number: int, tmp_path: Path) -> None:
    random_configs = pytest.importorskip("random_configs", exc_type=ImportError)  # needs transformers
    from family_table import built as theirs

    family, fields = random_configs.random_config(number)
    theirs(family, fields, seed=number).save_pretrained(tmp_path)
    for gates in GATES:
        check(load_network(tmp_path, check_sites=False).double(), gates, IDS % 20)


def test_without_biases_embeddings_are_all_that_a_logit_is_made_of() -> None:
    net = TREES["llama"].build(seed=3).double()
    frozen = FrozenModel.over(net, IDS, save=["embed", "mlp_act[1]", "z[0]"])
    which = torch.eye(40, dtype=torch.float64)[:, None, None].expand(-1, 2, 5, -1)
    back = frozen.adjoint({"logits": which}, ["embed"])
    (cotangent,) = back.values()
    wanted = frozen.logits.sum(1).T  # a row's logits of all positions
    assert torch.allclose((cotangent * frozen.saved["embed"]).sum((2, 3)), wanted, atol=1e-10)


def test_it_starts_where_it_is_told_and_rows_are_independent() -> None:
    net = built("gpt_oss")
    frozen, one = FrozenModel.over(net, IDS), FrozenModel.over(net, IDS[1:])
    given = torch.randn(3, 2, 5, 32, dtype=torch.float64)
    whole = frozen.adjoint({"resid_mid[0]": given}, ["embed", "resid_mid[0]", "resid_post[1]"])
    assert torch.equal(whole[net.sites.resid_mid[0]], given) and not whole[net.sites.resid_post[1]].any()
    part = one.adjoint({"resid_mid[0]": given[:, 1:]}, ["embed"])
    assert torch.allclose(part[net.sites.embed], whole[net.sites.embed][:, 1:], atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_in_half_precision_cotangents_are_single(name: str) -> None:
    net, given = built(name), torch.randn(3, 2, 5, 32)
    wanted = FrozenModel.over(net, IDS).adjoint({"final_norm": given}, ["embed"])[net.sites.embed]
    half = FrozenModel.over(net.bfloat16(), IDS).adjoint({"final_norm": given}, ["embed"])[net.sites.embed]
    assert half.dtype == torch.float32
    assert (half - wanted).norm() < 0.05 * wanted.norm()


class Widened(MLP):
    """A third party's map, which says nothing of how it is held fixed."""

    def build(self, width: int, std: float) -> Any:
        module: Any = super().build(width, std)
        module.__class__ = type("_Widened", (type(module),), {"forward": lambda m, x, c, i: (2 * x, {})})
        return module


def test_what_cannot_be_frozen_or_asked_is_one_sentence() -> None:
    frozen = FrozenModel.over(TREES["llama"].build(0), IDS)
    rows = torch.zeros(1, 2, 5, 32)
    block = Block(Attention(4), GLU())
    cases: dict[str, tuple[type[ClocheError], Callable[[], Any]]] = {
        "no gradient at q.0.;": (SiteUnsuitable, lambda: frozen.adjoint({"final_norm": rows}, ["q[0]"])),
        "no gradient at head_out": (SiteUnsuitable, lambda: frozen.adjoint({"final_norm": rows}, ["head_out[0]"])),
        "must be .1, 2, 5, 40.": (ArgumentInvalid, lambda: frozen.adjoint({"logits": rows}, ["embed"])),
        "There are no cotangents": (ArgumentInvalid, lambda: frozen.adjoint({}, ["embed"])),
        "is half or fixed": (ArgumentInvalid, lambda: FrozenModel.over(frozen.net, IDS, gates="none")),  # type: ignore[arg-type]
        "^Convolution does not say": (
            ModelUnsupported,
            lambda: FrozenModel.over(LM(40, 32, Stack(1, Block(third_party.Convolution(3), GLU()))).build(0), IDS),
        ),
        "^TwoSpeed does not say": (
            ModelUnsupported,
            lambda: FrozenModel.over(LM(40, 32, third_party.TwoSpeed(1, 1, block, block)).build(0), IDS),
        ),
        "^Widened does not say": (
            ModelUnsupported,
            lambda: FrozenModel.over(LM(40, 32, Stack(1, Block(Attention(4), Widened()))).build(0), IDS),
        ),
    }
    for sentence, (kind, call) in cases.items():
        with pytest.raises(kind, match=sentence):
            call()
