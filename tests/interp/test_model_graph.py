"""The model graph: its sums are the file's and `flops_per_token`'s, in every family; findings are laid over its sites."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import cloche
from cloche import GLU, LM, MLP, Attention, Block, LayerNorm, RMSNorm, Stack
from cloche.drawing import Finding, Graph, Heatmap, Provenance, Table, as_html
from cloche.errors import InstrumentOption
from cloche.interp import Materials, find_instrument, logit_attribution, model_graph, read_options
from cloche.interp.materials import open_finding
from cloche.model import MoE, Network, NoNorm, ParallelBlock, save_network
from third_party import Loop  # a body that repeats one block

PLAIN = Block(Attention(4), GLU())
EXPERTS = MoE(experts=4, active=2, expert=MLP(hidden=16))
PARALLEL = ParallelBlock(Attention(4, bias=True), EXPERTS, norm=LayerNorm(), post=RMSNorm())
MODELS = {
    "plain": LM(64, 32, Stack(3, PLAIN)),
    "tied, two kinds": LM(64, 32, Stack(4, (PLAIN, PARALLEL)), tied=True),
    "no norm before": LM(64, 32, Stack(2, Block(Attention(4, kv_heads=2), MLP(), norm=NoNorm(), post=RMSNorm()))),
    "loop": LM(64, 32, Loop(3, PLAIN)),
}


@pytest.fixture(params=MODELS)
def net(request) -> Network:
    return MODELS[request.param].build(seed=0)


def test_the_parts_add_up_to_the_file_and_to_flops_per_token(net: Network, tmp_path: Path) -> None:
    figures = model_graph(cloche.Glass(net), length=128).figures
    save_network(net, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
        assert figures["parameters"] == sum(int(torch.Size(size).numel()) for size in sizes)
    assert figures["bytes"] == 4 * figures["parameters"]
    assert figures["flops_per_token"] == net.flops_per_token(128)


def test_the_shapes_are_those_of_a_run(net: Network) -> None:
    (table,) = (panel for panel in model_graph(cloche.Glass(net)).panels if getattr(panel, "title", "") == "Sites")
    result = net.run([[1, 2, 3]], save=list(net.sites))
    assert isinstance(table, Table)
    for name, _, shape, _ in table.rows:
        for site in net.sites:
            if site.name == name:
                known = [part.split(" ")[1] for part in str(shape).split(", ")]
                there = result[site].shape
                assert all(size == "?" or int(size) == n for size, n in zip(known, there, strict=True))


def test_every_kind_of_layer_is_a_connected_graph(net: Network) -> None:
    graphs = [panel for panel in model_graph(cloche.Glass(net)).panels if isinstance(panel, Graph)]
    assert graphs
    for graph in graphs:
        assert {i for edge in graph.edges for i in edge[:2]} == set(range(len(graph.nodes)))
        assert [node.name for node in graph.nodes if node.name.startswith("resid_")][-1] == "resid_post"
        assert all(graph.nodes[a].column < graph.nodes[b].column for a, b, _ in graph.edges)
        assert graph.labels[0] in as_html(graph).html


def test_a_finding_is_laid_over_its_sites() -> None:
    glass = cloche.Glass(MODELS["plain"].build(seed=0))
    heads = logit_attribution(glass, [1, 2, 3], by="head", ablate="none")
    found = model_graph(glass, finding=heads)
    largest = {}
    for name, value in zip(heads.data["names"], heads.arrays["direct"].tolist(), strict=True):
        site = name.partition(".")[0]
        largest[site] = max(largest.get(site, 0.0), value, key=abs)
    assert found.data["values"]["z[1]"] == pytest.approx(largest["z[1]"])
    (grid,) = (panel for panel in found.panels if isinstance(panel, Heatmap))
    assert grid.rows == ("layer 2", "layer 1", "layer 0") and "z" in grid.columns
    graph = next(panel for panel in found.panels if isinstance(panel, Graph))
    assert any(node.value is not None for node in graph.nodes)


def test_what_cannot_be_drawn_is_one_sentence(tmp_path: Path) -> None:
    glass = cloche.Glass(MODELS["plain"].build(seed=0))
    with pytest.raises(InstrumentOption, match="at least one token"):
        model_graph(glass, length=0)
    with pytest.raises(InstrumentOption, match="rows are sites"):
        model_graph(glass, finding=Finding(Provenance("greeting"), "Hello."))
    run = cloche.Run.create(tmp_path / "run", recipe="")
    name, function = find_instrument("model-graph")
    with pytest.raises(InstrumentOption, match="make one with"):
        read_options(name, function, {"finding": ["logit-lens"]}, Materials(glass, run))
    saved = logit_attribution(glass, [1, 2, 3], ablate="none")
    saved.save(run)
    for text in ("logit_attribution", saved.id):
        (given,) = read_options(name, function, {"finding": [text]}, Materials(glass, run)).values()
        assert given.id == saved.id
    with pytest.raises(InstrumentOption, match="it has some of logit-attribution"):
        read_options(name, function, {"finding": ["nothing"]}, Materials(glass, run))


def test_a_finding_that_is_a_link_to_nothing_is_none(tmp_path: Path) -> None:
    run = cloche.Run.create(tmp_path / "linked", recipe="")
    (run.path / "findings" / "logit-lens").mkdir(parents=True)
    (run.path / "findings" / "logit-lens" / "x.json").symlink_to("nowhere")
    with pytest.raises(InstrumentOption, match="has no finding 'logit-lens'"):
        open_finding(run, "logit-lens")
