"""Chapters of the report: curves, samples, health and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cloche.drawing import (
    EMPTY,
    Child,
    Finding,
    Form,
    Heatmap,
    Lines,
    Markup,
    Series,
    as_html,
    number,
    percent,
    tag,
    visible,
)
from cloche.microscope.folder.records import thin

MAP_COLUMNS = 300
PROMPTS = 3
MOMENTS = 6
Record = dict[str, Any]


def section(title: str, lead: Child, *body: Child, class_: str | None = None) -> Markup:
    """One chapter: a title, a lead sentence and its content."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), *body, class_=class_)


def curve(
    title: str,
    unit: str,
    columns: Record,
    key: str,
    marks: tuple[tuple[float, str], ...] = (),
    low: float | None = None,
) -> Lines | None:
    """One measure over the steps, from `low` upwards if given; None if it was never logged."""
    pairs = [(x, y) for x, y in zip(columns["step"], columns[key], strict=True) if y is not None]
    if not pairs:
        return None
    series = (Series("", tuple(y for _, y in pairs)),)
    return Lines(title, tuple(x for x, _ in pairs), series, "step", low=low, marks=marks, note=unit)


def samples(records: list[Record]) -> Markup:
    """Continuations of the first few prompts at evenly spaced steps."""
    prompts = list(dict.fromkeys(r["prompt"] for r in records))[:PROMPTS]
    blocks = []
    for prompt in prompts:
        mine = [r for r in records if r["prompt"] == prompt]
        items = [
            tag(
                "li",
                tag("small", f"step {r['step']:,}"),
                tag("p", tag("span", prompt, class_="given"), tag("span", r["text"]), class_="sample"),
            )
            for r in thin(mine, MOMENTS)
        ]
        blocks.append([tag("h3", tag("code", visible(prompt))), tag("ol", items, class_="through")])
    if not blocks:
        return EMPTY
    return section("Growing up", "Continuations of the same prompts during training.", blocks, class_="prompts")


@dataclass(frozen=True)
class Measure:
    """One health measure: its key in health.jsonl, title, explanation and how to draw it. high: the greatest value that it can
    have. `usual` is the key of the highest usual value in records that have no "limits"."""

    key: str
    title: str
    note: str
    form: Form = "percent"
    log: bool = False
    embed: bool = False
    high: float | None = None
    usual: str | None = None


MEASURES = (
    Measure(
        "resid_variance", "Residual variance",
        "Variance of the residual stream after each layer. It should rise gently from bottom to top and then level off; "
        "a row that keeps growing means that the run is about to diverge.", "number", log=True, embed=True,
    ),
    Measure(
        "attention_entropy", "Attention entropy",
        "How widely each head attends: 100% is uniform attention, 0% a single token. Heads should diverge as they "
        "specialise; all dark at once is collapse.", high=1.0,
    ),
    Measure(
        "activation_density", "Activation density",
        "The share of MLP units that are active per token: how sparse each layer is.",
    ),
    Measure(
        "update_ratio", "Update / weight", "The norm of each step's update over the norm of the weights.", "number",
        log=True, embed=True, usual="usual_update_ratio",
    ),
    Measure(
        "dead_units", "Dead units",
        "The share of MLP units that have never been active so far: width that is computed and not used.",
    ),
    Measure(
        "weight_norm", "Weight norm", "The norm of each layer's weights. Without weight decay it only grows, which slows "
        "learning; with it, it settles.", "number", log=True, embed=True,
    ),
    Measure(
        "rank", "Rank of the stream",
        "In how many directions the residual stream varies over tokens (participation ratio). All layers near one is "
        "collapse: every token looks the same.", "number", log=True, embed=True,
    ),
    Measure(
        "kurtosis", "Kurtosis of the stream",
        "3 is Gaussian. Much more means that few channels hold most of the variance, which low precision does not bear.",
        "number", log=True, embed=True,
    ),
    Measure(
        "gain", "Gain / nominal",
        "How much the linear maps of each layer amplify their inputs, over what their weights' norm says for inputs "
        "without a direction: 1 at initialisation, more as inputs align with weights.", "number",
    ),
)  # fmt: skip


def grid(records: Sequence[Record], measure: Measure) -> Heatmap:
    """A heat map with layers as rows, the last on top (heads of a layer together), and steps as columns."""
    rows: list[tuple[float | None, ...]] = []
    names: list[str] = []
    for layer in reversed(range(len(records[0][measure.key]))):
        found = [record[measure.key][layer] for record in records]
        heads = list(zip(*(each if isinstance(each, list) else [each] for each in found), strict=True))
        name = "embed" if measure.embed and layer == 0 else f"layer {layer - measure.embed}"
        rows += heads
        names += [name if head == len(heads) // 2 else "" for head in range(len(heads))]
    note = f"{measure.note}{usual_range(records[-1], measure)}"
    scale: Literal["log", "linear"] = "log" if measure.log else "linear"
    steps = tuple(f"step {r['step']:,}" for r in records)
    return Heatmap(
        measure.title, tuple(names), steps, tuple(rows),
        form=measure.form, scale=scale, high=measure.high, note=note,
    )  # fmt: skip


def usual_range(record: Record, measure: Measure) -> str:
    """The optimiser's limits of a measure as a sentence; "" if it has none."""
    low, high = record.get("limits", {}).get(measure.key, (None, record.get(measure.usual or "")))
    written = percent if measure.form == "percent" else number
    ends = [
        f"{word} {written(end)}"
        for word, end, possible in (("at least", low, 0.0), ("up to", high, measure.high))
        if end is not None and end != possible
    ]
    return f" Usual for this run's optimiser: {', '.join(ends)}." if ends else ""


def health(records: list[Record]) -> Markup:
    """A heat map per measure, layers by steps."""
    drawn = []
    for measure in MEASURES:
        mine = thin([r for r in records if r.get(measure.key)], MAP_COLUMNS)
        if mine:
            drawn.append(as_html(grid(mine, measure)))
    lead = "Measurements during training, with layers as rows, the last on top, and steps as columns."
    if records and (alarms := records[-1].get("alarms")):
        lead += f" Outside of the optimiser's limits at step {records[-1]['step']:,}: {', '.join(alarms)}."
    return section("Health", lead, tag("div", drawn, class_="drawings")) if drawn else EMPTY


def finding(found: Record) -> Markup:
    """A finding of any instrument, ours or a third party's, drawn from its panels."""
    read = Finding.of_record(found)
    title = read.instrument.replace("-", " ").capitalize()
    return section(title, [read.summary, " ", tag("small", read.checkpoint)], read.html())
