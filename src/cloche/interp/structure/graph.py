"""A model's graph: its parts and the sites between them, what each costs, and another finding laid over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cloche.drawing import Finding, Form, Graph, Heatmap, Node, Panel, Provenance, Table, as_table
from cloche.errors import ClocheError, InstrumentOption
from cloche.interp.structure.parts import TRAINING, PartCost, part_costs
from cloche.interp.subject import Subject
from cloche.model import Network, Site

LENGTH = 1024  # tokens of a sequence, where the model declares no context
PER_PROMPT = "?"  # a size that depends on the prompt


def model_graph(subject: Subject, length: int | None = None, finding: Finding | None = None) -> Finding:
    """The parts of a model and the sites between them, with sizes, parameters, bytes and operations.

    Operations are counted as `Network.flops_per_token` counts them, in sequences of `length` tokens (by default the model's
    context, else 1,024): two per use of a weight, and attention's own. Every parameter is counted once, where it is first
    used, so the parts add up to the file's tensors and to `flops_per_token`. Each kind of layer is drawn as a graph, whose
    edges are sites with their shapes.

    `finding`: the result of another instrument, whose values are laid over the sites that its tables and heat maps name (the
    largest by size if a site has several). From the command line it is given by its id, or by the name of its
    instrument for the newest. Nothing is measured, so there is no null.

    `data`: parts and sites as records, and values by site. Raises InstrumentOption for a length below 1, and for
    a finding that names no site of this model.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import model_graph
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> finding = model_graph(cloche.Glass(net), length=128)
    >>> finding.figures["parameters"], finding.figures["flops_per_token"] == net.flops_per_token(128)
    (28768.0, True)
    """
    net = subject.net
    length = net.most_tokens or LENGTH if length is None else length
    if length < 1:
        raise InstrumentOption(f"length={length} must be at least one token.")
    parts = part_costs(net, length)
    values = {} if finding is None else _laid_over(net, finding)
    figures = {
        "parameters": float(sum(part.parameters for part in parts)),
        "bytes": float(sum(part.bytes for part in parts)),
        "flops_per_token": TRAINING * sum(part.flops for part in parts),
        "layers": float(len(net.layers)),
    }
    sites = _sites(net)
    data = {
        "length": length,
        "parts": [vars(part) for part in parts],
        "sites": [
            {"site": name, "layers": layers, "shape": shape, "numbers": count} for name, layers, shape, count in sites
        ],
        "finding": None if finding is None else finding.id,
        "values": {str(site): value for site, value in values.items()},
    }
    return Finding(
        Provenance("model-graph", subject.checkpoint),
        _summary(net, parts, figures, length, finding, values),
        figures,
        data,
        panels=[
            *_graphs(net, values),
            *_by_layer(net, parts, finding, values),
            _parts_table(parts),
            _sites_table(sites),
        ],
    )


def _summary(
    net: Network,
    parts: list[PartCost],
    figures: dict[str, float],
    length: int,
    finding: Finding | None,
    values: dict[Site, float],
) -> str:
    flops = sum(part.flops for part in parts)
    most = max(parts, key=lambda part: part.parameters)
    said = (
        f"{figures['parameters']:,.0f} parameters ({figures['bytes'] / 2**20:,.1f} MiB) in {len(net.layers)} layers; a token "
        f"in {length:,} takes {flops:,.0f} operations forward, of which the layers take "
        f"{sum(part.flops for part in parts if part.layer is not None) / flops:.0%}; the largest part is {_name(most)}"
    )
    if finding is None:
        return said + "."
    top = max(values, key=lambda site: abs(values[site]))
    return f"{said}; of {finding.instrument}, {top} has the largest value, {values[top]:.3g}."


def _name(part: PartCost) -> str:
    return part.name if part.layer is None else f"{part.name} of layer {part.layer}"


# ---- values of another finding


def _laid_over(net: Network, finding: Finding) -> dict[Site, float]:
    """The values of the first panel of a finding that names sites of this model, by site without its head: of a table the
    first number of each row, of a heat map the largest."""
    for panel in finding.panels:
        found: dict[Site, float] = {}
        for name, *cells in as_table(panel).rows:
            site = _site(net, name)
            numbers = [float(cell) for cell in cells if isinstance(cell, int | float) and not isinstance(cell, bool)]
            if site is not None and numbers:
                value = max(numbers, key=abs) if isinstance(panel, Heatmap) else numbers[0]
                found[site] = max(found.get(site, 0.0), value, key=abs)
        if found:
            return found
    raise InstrumentOption(
        f"finding={finding.id} ({finding.instrument}) has no table or heat map whose rows are sites of this model; choose one "
        "such as that of activation-patching."
    )


def _site(net: Network, text: Any) -> Site | None:
    try:
        named = net.sites.resolve(str(text).split(" ")[0]) if isinstance(text, str) and text else []
    except ClocheError:
        return None
    return named[0].whole if len(named) == 1 and isinstance(named[0].whole, Site) else None


# ---- panels


def _graphs(net: Network, values: dict[Site, float]) -> Iterator[Graph]:
    """A graph for each kind of layer, in the order of their first layer."""
    kinds: dict[Any, list[int]] = {}
    for layer, block in enumerate(net.layers):
        kinds.setdefault(getattr(block, "part", type(block)), []).append(layer)
    for layers in kinds.values():
        drawn = _Drawn(net, layers, values)
        yield Graph(_span(layers).capitalize(), tuple(drawn.nodes), tuple(drawn.edges), tuple(drawn.labels))


class _Drawn:
    """The graph of a kind of layer: nodes are its parts and the sums of the stream, edges the sites from one to the next,
    as thick as the site is wide."""

    def __init__(self, net: Network, layers: list[int], values: dict[Site, float]) -> None:
        self.net, self.layers, self.values = net, layers, values
        self.nodes: list[Node] = []
        self.edges: list[tuple[int, int, float]] = []
        self.labels: list[str] = []
        block = net.layers[layers[0]]
        if not all(hasattr(block, name) for name in ("mix", "map")):
            start, end = self._node("resid_pre", 0), self._node(type(block).__name__.strip("_"), 1)
            self._edge(start, end, "resid_pre")
            self._edge(end, self._node("resid_post", 2), "resid_post")
            return
        start, between = self._node("resid_pre", 0), "resid_mid" in block.declared_sites
        middle = self._branch(block, "mix", "attn", start, 1)
        stream, column = start, self.nodes[middle].column + 1
        if between:
            stream = self._sum("resid_mid", column, [(middle, "attn_out"), (start, "resid_pre")])
            column += 1
        last = self._branch(block, "map", "mlp", stream, column if between else 1)
        ends = [(last, "mlp_out"), (stream, "resid_mid" if between else "resid_pre")]
        after = max(self.nodes[middle].column, self.nodes[last].column) + 1
        self._sum("resid_post", after, ends if between else [(middle, "attn_out"), *ends])

    def _branch(self, block: Any, field: str, site: str, start: int, column: int) -> int:
        """A branch from the stream to its last part, norms included; the index of that part's node."""
        part, at, reads = block.part, start, self.nodes[start].name
        if next(getattr(block, f"{field}_norm").parameters(), None) is not None:
            at = self._edge(at, self._node(type(part.norm).__name__, column), reads)
            column, reads = column + 1, f"{site}_in"
        at = self._edge(at, self._node(type(getattr(part, field)).__name__, column, site), reads)
        if part.post is not None:
            at = self._edge(at, self._node(type(part.post).__name__, column + 1), "")
        return at

    def _sum(self, name: str, column: int, terms: list[tuple[int, str]]) -> int:
        node = self._node(name, column)
        for start, site in terms:
            self._edge(start, node, site)
        return node

    def _node(self, name: str, column: int, branch: str = "") -> int:
        """A node with the largest value of its sites over the layers: of a stream's own, or of those inside a branch."""
        inside = {
            "attn": ("q", "k", "v", "z", "pattern", "scores", "attn_out"),
            "mlp": ("mlp_pre", "mlp_act", "mlp_out"),
        }
        names = inside.get(branch, (name,))
        found = [v for site, v in self.values.items() if site.name in names and site.layer in self.layers]
        self.nodes.append(Node(name, column, max(found, key=abs) if found else None))
        return len(self.nodes) - 1

    def _edge(self, start: int, end: int, site: str) -> int:
        width = self.net.spec.width
        self.edges.append((start, end, float(width)))
        self.labels.append(f"{site} [position, {width}]".strip())
        return end


def _span(layers: list[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    unbroken = layers == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]} to {layers[-1]}" if unbroken else f"layers {', '.join(map(str, layers))}"


def _by_layer(
    net: Network, parts: list[PartCost], finding: Finding | None, values: dict[Site, float]
) -> Iterator[Panel]:
    """A heat map of layers and the sites that have values."""
    names = list(dict.fromkeys(site.name for site in values if site.layer is not None))
    if finding is None or not names:
        return
    at = {(site.layer, site.name): value for site, value in values.items()}
    layers = range(len(net.layers))
    grid = [[at.get((layer, name)) for name in names] for layer in layers]
    yield Heatmap.by_layer(f"{finding.instrument} by layer and site", [f"layer {i}" for i in layers], names, grid)


def _parts_table(parts: list[PartCost]) -> Table:
    """Layers with equal rows are one, with their sums."""
    merged: dict[tuple[Any, ...], list[PartCost]] = {}
    for part in parts:
        place = part.name if part.layer is None else None
        merged.setdefault((place, part.name, part.settings, part.parameters, part.flops), []).append(part)
    total = sum(part.flops for part in parts) or 1.0
    rows: list[tuple[str | float, ...]] = []
    for same in merged.values():
        layers = [part.layer for part in same if part.layer is not None]
        cost = sum(part.flops for part in same)
        numbers = (sum(part.parameters for part in same), sum(part.bytes for part in same), cost, cost / total)
        rows.append((same[0].name, _span(layers) if layers else "", same[0].settings, *numbers))
    sums = (sum(part.parameters for part in parts), sum(part.bytes for part in parts), total, 1.0)
    forms: tuple[Form, ...] = ("number", "number", "number", "number", "number", "number", "percent")
    columns = ("part", "layers", "settings", "parameters", "bytes", "operations per token", "share of them")
    return Table("Parts", columns, (*rows, ("all", "", "", *sums)), forms, "Operations of a forward pass.")


def _sites(net: Network) -> list[tuple[str, str, str, int | None]]:
    """Name, layers, shape and numbers per token of each site, in the order of the pass; sizes that the prompt decides are ?."""
    found: dict[tuple[str, str, int | None], list[int]] = {}
    for site in net.sites:
        sizes = net.sites.shape(site)
        shape = ", ".join(f"{axis} {PER_PROMPT if size is None else size}" for axis, size in sizes.items())
        own = [size for axis, size in sizes.items() if axis not in ("batch", "position")]
        count = None if None in own else math.prod(filter(None, own))
        found.setdefault((site.name, shape, count), []).extend([] if site.layer is None else [site.layer])
    return [(name, _span(layers) if layers else "", shape, count) for (name, shape, count), layers in found.items()]


def _sites_table(sites: list[tuple[str, str, str, int | None]]) -> Table:
    rows = tuple((name, layers, shape, "" if count is None else count) for name, layers, shape, count in sites)
    return Table("Sites", ("site", "layers", "shape", "numbers per token"), rows)
