"""A compiled run: one graph a plan, no break, no second compilation for a second strength."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from combinations import VOCAB, close, combination, lively, random_ids

from glasshouse.model import LM, MLP, Attention, Block, Network, Stack

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


@pytest.mark.parametrize("number", [1])
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
    """Each plan compiles once, on its own: as many as a sweep needs, past torch's limit of eight for one function."""
    net, backend = tiny(), Counting()
    edits = [net.sites.z[layer].head(head).scale(-2.0) for layer in range(2) for head in range(3)]
    edits += [net.sites.mlp_act[1].zero().at(place) for place in range(3)]
    for _ in range(2):
        for edit in edits:
            result = net.run(IDS, save=[edit.site], edits=[edit], logits=False, compile=backend)
            close(result[edit.site], net.run(IDS, save=[edit.site], edits=[edit])[edit.site])
    close(net.run(IDS, edits=edits, compile=backend).logits, net.run(IDS, edits=edits).logits)
    assert len(backend.graphs) == len(edits) + 1 > torch._dynamo.config.recompile_limit


def test_padding_compiles_too() -> None:
    net, backend = lively(combination(2)), Counting()
    for pad in ([0, 3], [2, 1]):
        close(
            net.run(IDS, **steered(net, 2.0), pad=pad, compile=backend).logits,
            net.run(IDS, **steered(net, 2.0), pad=pad).logits,
        )
    assert len(backend.graphs) == 1


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
    net, backend = lively(combination(1)), Counting()
    for batch, length in [(2, 7), (3, 5), (4, 6), (5, 8)]:
        ids = random_ids(batch, length)
        wanted = net.run(ids, **steered(net, 2.0))
        close(net.run(ids, **steered(net, 2.0), compile=backend).logits, wanted.logits)
    assert len(backend.graphs) == 2  # once as it is, and once for any batch and length


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_the_real_compiler() -> None:
    net = tiny()
    s, saves = net.sites, ["resid_post.all", "pattern[1]"]
    for strength in (2.0, 3.0):
        edits = [s.resid_post[0].add(strength * torch.ones(8)).at("last"), s.z[1].head(0).scale(strength)]
        result, wanted = net.run(IDS, saves, edits, compile=True), net.run(IDS, saves, edits)
        close(result.logits, wanted.logits)
        for site in saves:
            close(result[site], wanted[site])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
