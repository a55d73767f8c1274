"""A compiled run: one graph a plan, no break, no second compilation for a second strength."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from combinations import NUMBERS, VOCAB, close, combination, lively, random_ids

from cloche.model import LM, MLP, Attention, Block, Network, Stack

IDS = random_ids(2, 7)


class Counting:
    """A backend that runs the captured graph as it is, and counts the graphs it was given."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def steered(net: Network, strength: float) -> dict[str, Any]:
    s, d = net.sites, torch.linspace(-1, 1, net.spec.width)
    return {
        "save": [s.resid_post.all, s.pattern[1], s.z[0].head(1)],
        "edits": [
            s.resid_post[0].add(strength * d).at("last"),
            s.z[1].head(0).scale(strength).at([0, -2]),
            s.pattern[1].head(1).zero().at(slice(2, 4)),
            s.mlp_out[2].project_out(d),
            s.attn_out[2].apply(torch.tanh),
        ],
    }


slow = pytest.mark.slow


@pytest.mark.parametrize("number", [NUMBERS[33], *(pytest.param(NUMBERS[n], marks=slow) for n in (1, 35, 44))])
def test_one_graph_whatever_the_strength(number: int) -> None:
    net, backend = lively(combination(number)), Counting()
    for strength in (2.0, 5.0, -1.5):
        for ids in (IDS, IDS.flip(0)):
            wanted = net.run(ids, **steered(net, strength))
            result = net.run(ids, **steered(net, strength), compile=backend)
            close(result.logits, wanted.logits)
            for site in ("resid_post.all", "pattern[1]", "z[0].head(1)"):
                close(result[site], wanted[site])
    assert len(backend.graphs) == 1
    operations = [node for node in backend.graphs[0].graph.nodes if node.op.startswith("call")]
    assert len(operations) > 50  # the pass itself is inside


def tiny() -> Network:
    return lively(LM(VOCAB, 8, Stack(2, Block(mix=Attention(heads=3, head_size=2), map=MLP(hidden=8)))))


def test_any_number_of_plans() -> None:
    """Each plan compiles once, on its own: as many as a sweep needs, past torch's limit for one function."""
    net, backend = tiny(), Counting()
    edits = [net.sites.z[layer].head(head).scale(-2.0) for layer in range(2) for head in (0, 2)][::3]
    edits += [net.sites.mlp_act[1].zero().at(place) for place in range(2)]
    with torch._dynamo.config.patch(recompile_limit=3):
        for edit in edits * 2:
            result = net.run(IDS, save=[edit.site], edits=[edit], logits=False, compile=backend)
            close(result[edit.site], net.run(IDS, save=[edit.site], edits=[edit])[edit.site])
    assert len(backend.graphs) == len(edits)


def test_padding_compiles_too() -> None:
    net, backend = lively(combination(2)), Counting()
    for pad in ([0, 3], [2, 1]):
        close(
            net.run(IDS, **steered(net, 2.0), pad=pad, compile=backend).logits,
            net.run(IDS, **steered(net, 2.0), pad=pad).logits,
        )
    assert len(backend.graphs) == 1


@slow
def test_gradients_through_a_compiled_run() -> None:
    net, gradients = tiny(), []
    for compile in (False, "aot_eager"):
        d = torch.ones(net.spec.width, requires_grad=True)
        net.run(IDS, edits=[net.sites.resid_post[1].add(d)], grad=True, compile=compile).logits[..., 0].sum().backward()
        gradients.append(d.grad)
    close(*gradients)


def test_a_copy_compiles_its_own_weights() -> None:
    net, backend = lively(combination(1)), Counting()
    net.run(IDS, compile=backend)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.embed.weight.mul_(2)
    close(twin.run(IDS, compile=backend).logits, twin.run(IDS).logits)
    close(net.run(IDS, compile=backend).logits, net.run(IDS).logits)


def test_prompts_of_several_shapes() -> None:
    net, backend = tiny(), Counting()
    asked = {"save": ["resid_post.all"], "edits": [net.sites.resid_post[0].scale(2.0).at("last")]}
    for batch, length in [(2, 7), (3, 5), (4, 6), (5, 8)]:
        ids = random_ids(batch, length)
        close(net.run(ids, **asked, compile=backend).logits, net.run(ids, **asked).logits)
    assert len(backend.graphs) == 2  # once as it is, and once for any batch and length


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@slow
def test_the_real_compiler() -> None:
    net = lively(LM(VOCAB, 8, Stack(1, Block(mix=Attention(heads=2), map=MLP("relu", hidden=8)))))
    s = net.sites
    for strength in (2.0, 3.0):
        edits = [s.resid_mid[0].add(strength * torch.ones(8)).at("last"), s.z[0].head(1).scale(strength)]
        result, wanted = (net.run(IDS, save="resid_post.all", edits=edits, compile=c) for c in (True, False))
        close(result.logits, wanted.logits)
        close(result["resid_post.all"], wanted["resid_post.all"])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
