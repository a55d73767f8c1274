"""Compiled decode steps and sweeps: one graph, for every place reached, every prompt's length and every strength."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cloche.decode import Session
from cloche.errors import ClocheError
from cloche.model import GLU, LM, MLP, Attention, Block, Causal, LayerNorm, Learned, Network, RoPE, Stack, Window

VOCAB, WIDTH = 19, 12
GROUPED = Block(mix=Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=40)), map=GLU(hidden=10))
SLIDING = Block(mix=Attention(heads=3, head_size=4, mask=Causal() & Window(3)), map=MLP(hidden=10, bias=True))
SPECS = {
    "rotary": LM(VOCAB, WIDTH, Stack(2, GROUPED)),
    "sliding, learned": LM(VOCAB, WIDTH, Stack(2, SLIDING), norm=LayerNorm(), tied=True, position=Learned(32)),
}


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
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()


@pytest.fixture(params=SPECS)
def net(request) -> Network:
    return SPECS[request.param].build(seed=1)


def random_ids(batch: int, length: int) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def greedy(net: Network, length: int, strength: float, pad: Any, compile: Any, new: int = 5) -> tuple[Tensor, Any]:
    """Logits [new, batch, vocab] of a steered session, and what it saved."""
    d = torch.linspace(-1, 1, WIDTH)
    edits = [net.sites.resid_post[0].add(strength * d).at("new"), net.sites.z[1].head(0).scale(strength)]
    ids = random_ids(3, length)
    save = ["resid_post.all", "pattern[1]"]
    session = Session(net, ids, None if pad is None else torch.tensor(pad), new, edits, save, compile)
    out = [session.feed(ids)]
    for _ in range(new - 1):
        out.append(session.feed(out[-1].argmax(-1, keepdim=True)))
    return torch.stack(out), session.saved()


@pytest.mark.parametrize("pad", [[0, 2, 1], pytest.param(None, marks=pytest.mark.slow)])
def test_one_graph_for_every_prompt_and_strength(net: Network, pad: Any) -> None:
    backend = Counting()
    for length, strength in [(5, 2.0), (8, -1.0), (11, 0.5)]:
        found, saved = greedy(net, length, strength, pad, backend)
        wanted, truth = greedy(net, length, strength, pad, False)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        for site in ("resid_post.all", "pattern[1]"):
            torch.testing.assert_close(saved[site], truth[site], rtol=1e-5, atol=1e-5)
    assert len(backend.graphs) == 1
    calls = [node for node in backend.graphs[0].graph.nodes if node.op.startswith("call")]
    assert len(calls) > 40  # the step itself is inside


def test_an_unsteered_step(net: Network) -> None:
    backend = Counting()
    for length in (4, 9):
        ids = random_ids(2, length)
        sessions = [Session(net, ids, None, 6, compile=compile) for compile in (backend, False)]
        tokens = ids
        for _ in range(5):
            found, wanted = (session.feed(tokens) for session in sessions)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
            tokens = wanted.argmax(-1, keepdim=True)
    assert len(backend.graphs) == 1


def test_a_backend_that_does_not_exist(net: Network) -> None:
    with pytest.raises(ClocheError, match="no backend"):
        Session(net, random_ids(1, 3), None, 2, compile="nonesuch")
