"""A sweep's waves go through torch.compile in one graph each, without a break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from combinations import NUMBERS, combination, lively, random_ids
from torch import Tensor

from cloche.model.passes import sweep as swept

IDS = random_ids(2, 8)


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


def read(logits: Tensor) -> Tensor:
    return logits[:, -1, 3] - logits[:, -1, 5]


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "layers", "pad"),
    [
        pytest.param(NUMBERS[2], (), [0, 2]),
        *(pytest.param(NUMBERS[n], (0, 1, 2), pad, marks=slow) for n in (1, 2, 35) for pad in (None, [0, 2])),
    ],
)
def test_every_wave_is_one_graph(monkeypatch: pytest.MonkeyPatch, number: int, layers: Any, pad: Any) -> None:
    net, backend, waves = lively(combination(number)), Counting(), []
    source = net.run(IDS.flip(0), pad=pad, save=["z.all", "resid_pre.all"])
    s = net.sites
    edits = [s.z[layer].head(h).replace(source) for layer in layers for h in (0, 1)]
    edits += [s.resid_pre[layer].replace(source).at(p) for layer in layers for p in (-1, -3)]
    edits += [s.pattern[1].head(1).zero(), s.mlp_out[2].scale(2.0).at("last"), s.attn_out[0].mean()]
    wanted = net.sweep(IDS, edits, read, pad=pad)
    eager = swept._logits

    def compiled(*wave: Any) -> Any:
        waves.append(wave)
        torch._dynamo.reset()  # each wave is a program of its own
        return torch.compile(lambda: list(eager(*wave)), backend=backend, fullgraph=True)()

    monkeypatch.setattr(swept, "_logits", compiled)
    found = net.sweep(IDS, edits, read, pad=pad)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert len(backend.graphs) == len(waves) > 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert all(sum(n.op.startswith("call") for n in graph.graph.nodes) > 20 for graph in backend.graphs)
