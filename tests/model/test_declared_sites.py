"""Sites are what a model's modules declare: a third party's are like ours, and one that nobody declares is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from combinations import NUMBERS, VOCAB, close, combination, lively, random_ids

from cloche.decode import generate
from cloche.errors import ClocheError
from cloche.model import GLU, LM, MLP, Attention, Block, MoE, Network, Site, Stack, site
from cloche.model.declare import Module
from cloche.model.sites import DeclaredSite, each_token
from cloche.model.sites.proof import prove_sites
from cloche.model.sites.vocabulary import AXES
from third_party import Convolution, _Convolution

WIDTH, IDS = 12, random_ids(2, 7)


@pytest.fixture(scope="module")
def net() -> Network:
    """Convolution and attention in turn."""
    blocks = Block(Convolution(), MLP(hidden=9)), Block(Attention(heads=2), MLP(hidden=9))
    return lively(LM(VOCAB, WIDTH, Stack(4, blocks)))


def test_a_third_partys_site_is_listed_in_the_order_of_the_pass(net: Network) -> None:
    sites = net.sites
    assert str(sites.conv_out) == "conv_out in layers 0, 2" and sites.conv_out[2].axes == ("batch", "position", "width")
    names = list(dict.fromkeys(found.name for found in sites))
    assert names.index("attn_in") < names.index("conv_out") < names.index("attn_out") and "conv_out" in dir(sites)
    assert sites.shape("conv_out[2]") == {"batch": None, "position": None, "width": WIDTH}
    assert sites.shape(sites.z[1].head(1)) == {"batch": None, "position": None, "head_size": 6}
    with pytest.raises(ClocheError, match=r"There is no conv_out\[1\]: this model has conv_out in layers 0, 2"):
        sites.resolve("conv_out[1]")
    with pytest.raises(ClocheError, match="did you mean 'conv_out'"):
        _ = sites.conv_uot


def test_it_is_saved_and_edited(net: Network) -> None:
    saved = net.run(IDS, save=["conv_out[0]", net.sites.conv_out.all])
    assert saved["conv_out.all"].shape == (2, 2, 7, WIDTH)
    close(net.layers[0].mix.out(saved["conv_out[0]"]), net.run(IDS, save="attn_out[0]")["attn_out[0]"])
    zeroed = net.run(IDS, save="attn_out[2]", edits=net.sites.conv_out[2].zero().at([1, 4]))["attn_out[2]"]
    assert (zeroed[:, [1, 4]] == 0).all() and (zeroed[:, [0, 2, 3, 5, 6]] != 0).all()
    other = net.run(random_ids(2, 7, seed=3), save="conv_out[0]")
    patched = net.run(IDS, save="conv_out[0]", edits=net.sites.conv_out[0].replace(other))
    assert torch.equal(patched["conv_out[0]"], other["conv_out[0]"])
    with pytest.raises(ClocheError, match=r"does not fit its site \[batch, position, width\] = \[2, 7, 12\]"):
        net.run(IDS, edits=net.sites.conv_out[0].add(torch.ones(5)))


def test_it_is_swept_and_generated_through(net: Network) -> None:
    edits: list[Any] = [
        net.sites.conv_out[layer].scale(s).at(p) for layer in (0, 2) for s in (0.0, 3.0) for p in (2, 5)
    ]
    swept = net.sweep(IDS, edits, lambda logits: logits)
    for edit, logits in zip(edits, swept, strict=True):
        close(logits, net.run(IDS, edits=edit).logits)
    steered = net.sites.conv_out[2].add(torch.ones(WIDTH))
    out = generate(net, IDS, new=5, edits=[steered], save=["conv_out[0]", "conv_out[2]"])
    whole = net.run(out.ids, save=["conv_out[0]", "conv_out[2]"], edits=[steered])
    for name in ("conv_out[0]", "conv_out[2]"):
        close(out.saved[name], whole[name])
    assert torch.equal(whole.logits[:, 6:-1].argmax(-1), out.ids[:, 7:])


def test_stored_activations(net: Network, tmp_path: Any) -> None:
    kept = net.store([IDS], save=net.sites.conv_out[2], to=tmp_path / "a", dtype="float32")
    assert kept.sites == {"conv_out[2]": [WIDTH]}
    (rows,) = kept.batches("conv_out[2]", size=14)
    close(rows, net.run(IDS, save="conv_out[2]")["conv_out[2]"].flatten(0, 1))


class _Silent(_Convolution):
    """Offers a site it does not declare."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        del self.declared_sites["conv_out"]


@dataclasses.dataclass(frozen=True)
class Silent(Convolution):
    def build(self, width: int, std: float) -> Module:
        return _Silent(self, width, std)


def test_an_undeclared_site_is_refused() -> None:
    net = LM(VOCAB, WIDTH, Stack(1, Block(Silent(), MLP(hidden=9)))).build(seed=0)
    with pytest.raises(ClocheError, match=r"A module in layer 0 offers the site 'conv_out', which it does not declare"):
        net.run(IDS, save="resid_post[0]")
    with pytest.raises(ClocheError, match="This model has no site 'conv_out'"):
        net.run(IDS, save=net.sites.conv_out[0])


def _module(**sites: DeclaredSite) -> Module:
    module = Module()
    for name, declared in sites.items():
        module.declare_site(name, declared)
    return module


class _Clash(_Convolution):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.declare_site("mlp_act", each_token(width=WIDTH))


@dataclasses.dataclass(frozen=True)
class Clash(Convolution):
    def build(self, width: int, std: float) -> Module:
        return _Clash(self, width, std)


def test_declarations_that_no_plan_could_use_are_refused() -> None:
    with pytest.raises(ClocheError, match="is a word such as conv_out"):
        _module(**{"conv out": each_token()})
    for size in (0, -1, 1.5, "8", True):
        with pytest.raises(ClocheError, match="along width; a size is a whole number above zero"):
            _module(conv_out=each_token(width=size))  # type: ignore[arg-type]
    with pytest.raises(ClocheError, match="the first is batch, and one position or query"):
        _module(conv_out=DeclaredSite({"position": None, "width": 3}))
    with pytest.raises(ClocheError, match="Two modules of a Block declare the site 'mlp_act'"):
        LM(VOCAB, WIDTH, Stack(1, Block(Clash(), MLP(hidden=9)))).build()
    mixed = Block(Clash(), MoE(2, 1, GLU(hidden=8))), Block(Attention(2), MLP(hidden=9))
    with pytest.raises(ClocheError, match="declare the site 'mlp_act' in two ways"):
        LM(VOCAB, WIDTH, Stack(2, mixed)).build()


@pytest.mark.parametrize("number", NUMBERS[::3])
def test_every_site_is_as_large_as_it_is_declared(number: int) -> None:
    net = lively(combination(number))
    ids = random_ids(2, 6)
    result = net.run(ids, save=list(net.sites))
    prompt = {"batch": 2, "position": 6, "query": 6, "key": 6}
    for found in net.sites:
        assert list(result[found].shape) == [size or prompt[axis] for axis, size in net.sites.shape(found).items()]


def test_a_text_without_a_model_has_the_axes_that_our_modules_declare(net: Network) -> None:
    experts = LM(VOCAB, WIDTH, Stack(1, Block(Attention(2), MoE(2, 1, GLU(hidden=8))))).build()
    declared = {found.name: found.axes for one in (net, experts) for found in one.sites}
    assert {name: axes for name, axes in declared.items() if name != "conv_out"} == AXES
    with pytest.raises(ClocheError, match="There is no site 'conv_out'"):
        site("conv_out[0]")
    assert net.sites.resolve("conv_out[0]") == [Site("conv_out", 0)]


class _Plain(_Convolution):
    """Has a parameter that it does not declare."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.gain = torch.nn.Parameter(torch.ones(3))


@dataclasses.dataclass(frozen=True)
class Plain(Convolution):
    def build(self, width: int, std: float) -> Module:
        return _Plain(self, width, std)


@dataclasses.dataclass(frozen=True)
class Mistaken(Convolution):
    def build(self, width: int, std: float) -> Module:
        return _Convolution(self, width, std)

    def prove(self, x: Any, proof: Any) -> Any:
        return proof.linear("no_such_matrix", x)


def test_an_undeclared_parameter_is_refused() -> None:
    with pytest.raises(ClocheError, match=r"body.layers.0.mix.gain of _Plain is not declared.*self.declare"):
        LM(VOCAB, WIDTH, Stack(1, Block(Plain(), MLP(hidden=9)))).build(seed=0)


def test_a_proof_of_a_matrix_that_is_not_there_is_refused() -> None:
    net = LM(VOCAB, WIDTH, Stack(1, Block(Mistaken(), MLP(hidden=9)))).build(seed=0)
    with pytest.raises(ClocheError, match=r"reads the matrix body.layers.0.mix.no_such_matrix.weight"):
        prove_sites(net)
