"""Panels of a logit attribution."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from cloche.drawing import Bars, Form, Heatmap, Panel, Scatter, Series, Table

TOP = 20  # rows in the table, and bars of neurons


def contribution_panels(data: dict[str, Any], arrays: dict[str, Tensor]) -> tuple[Panel, ...]:
    """The largest contributions beside their ablation, all of them in the order of the pass (heads as a map of layers and
    heads), each against its ablation, and pairs of opposite sign ablated together."""
    names = data["names"]
    direct, null = arrays["direct"].tolist(), arrays["null"].tolist()
    ablated: list[float | None] = arrays["ablated"].tolist() if "ablated" in arrays else [None] * len(names)
    order = sorted(range(len(names)), key=lambda i: -abs(direct[i]))[:TOP]
    rows: list[tuple[str | float | None, ...]] = [(names[i], direct[i], ablated[i], null[i]) for i in order]
    left = sum(direct) - sum(direct[i] for i in order) + data["rest"]
    rows += [("all others", left, None, None), ("constant", data["constant"], None, None)]
    rows.append(("sum", data["total"], None, None))
    what = f"logit of {data['token']!r} minus that of {data['against']!r}"
    forms: tuple[Form, ...] = ("number",) * 4
    columns = ("component", "adds directly", f"falls without ({data['ablate']})", "adds for random tokens")
    note = "The last column is the root mean square over pairs of random tokens."
    panels: list[Panel] = [Table(f"What adds to the {what}", columns, tuple(rows), forms, note)]
    panels.append(head_map(names, direct) if data["by"] == "head" else _bars(names, direct, ablated, data["by"]))
    if "ablated" in arrays:
        points = tuple(zip(direct, arrays["ablated"].tolist(), strict=True))
        panels.append(Scatter("Each component", points, ("adds directly", "falls without"), tuple(names)))
    if data["opposed"]:
        at = dict(zip(names, direct, strict=True))
        pairs = tuple((a, b, at[a], at[b], fall) for a, b, fall in data["opposed"])
        both = ("one", "other", "one adds", "other adds", "falls without both")
        panels.append(Table("Opposed components, ablated in pairs", both, pairs, ("number",) * 5))
    return tuple(panels)


def _bars(names: list[str], direct: list[float], ablated: list[float | None], by: str) -> Bars:
    """In the order of the pass; of neurons and experts, the largest."""
    chosen = range(len(names))
    if by in ("neuron", "expert"):
        chosen = sorted(sorted(chosen, key=lambda i: -abs(direct[i]))[:TOP])  # type: ignore[assignment]
    series = [Series("adds directly", tuple(direct[i] for i in chosen))]
    if any(value is not None for value in ablated):
        series.append(Series("falls without", tuple(ablated[i] for i in chosen)))
    return Bars("In the order of the pass", tuple(names[i] for i in chosen), tuple(series))


def head_map(names: list[str], direct: list[float]) -> Heatmap:
    """What each head adds, layers by heads."""
    found = {
        (int(m[1]), int(m[2])): value for name, value in zip(names, direct, strict=True) if (m := _HEAD.match(name))
    }
    layers = sorted({layer for layer, _ in found})
    heads = range(1 + max(head for _, head in found))
    values = [[found.get((layer, head)) for head in heads] for layer in layers]
    rows = [f"layer {layer}" for layer in layers]
    return Heatmap.by_layer("What each head adds", rows, [f"h{head}" for head in heads], values)


_HEAD = re.compile(r"z\[(\d+)\]\.head\((\d+)\)")
