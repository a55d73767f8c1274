"""The report's chapters on what the model says, what goes on inside it, and what its features are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cloche.microscope.folder.features import listing, whole
from cloche.microscope.folder.moments import thin
from cloche.microscope.folder.reading import words
from cloche.microscope.page.drawing import Scale, bars, css, heat_map, ink_on, legend, lit_tokens, scale_of, visible
from cloche.microscope.page.markup import EMPTY, Child, Markup, tag
from cloche.microscope.page.measures import place_key, shares

MAP_COLUMNS = 300
PROMPTS = 3
MOMENTS = 6
FEATURES = 10
EXAMPLES = 4
LENS_COLUMNS = 16
Record = dict[str, Any]


def short(value: float | None) -> str:
    """A large number in three digits and a letter."""
    if value is None:
        return "–"
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def size(count: int) -> str:
    """A number of bytes in megabytes or gigabytes."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02d}" if whole >= 3600 else str(whole // 60)
    return f"{whole // 3600}:{minutes}:{whole % 60:02d}" if whole >= 3600 else f"{minutes}:{whole % 60:02d}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}" if value >= 1e-3 or value == 0 else f"{value:.2%}"


def section(title: str, lead: Child, *body: Child, class_: str | None = None) -> Markup:
    """One chapter: its title, a sentence or two, and what it shows."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), *body, class_=class_)


def samples(records: list[Record]) -> Markup:
    """Continuations of the first prompts at some moments from first to last, and what the model expects next at the end."""
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
    return section("Growing up", "The same prompts, again and again, as it grew.", blocks, class_="prompts")


@dataclass(frozen=True)
class Map:
    """One health measure: its key in health.jsonl, its title, what to make of it, and how to draw it."""

    key: str
    title: str
    note: str
    fmt: Callable[[float], str]
    log: bool = False
    embed: bool = False
    low: float | None = None
    high: float | None = None
    span: float = 0.0  # the least there must be between the ends, lest noise look like news


MAPS = (
    Map(
        "resid_variance", "Residual variance", "How large the stream is after each layer.", "{:.3g}".format, True, True
    ),
    Map(
        "attention_entropy",
        "Attention entropy",
        "How widely each head looks: 100 % is everywhere alike.",
        share,
        low=0,
        high=1,
    ),
    Map("activation_density", "Activation density", "The share of MLP units active on a token.", share, span=0.02),
    Map("update_ratio", "Update / weight", "How far each step moves the weights.", "{:.2g}".format, True, True),
    Map("dead_units", "Dead units", "The share of MLP units that never fired so far.", share, low=0, span=0.01),
)


def grid(records: list[Record], kind: Map) -> tuple[list[list[float | None]], list[str]]:
    """Rows from the top layer down (each layer's heads together) by columns of steps, and the row labels."""
    first = records[0][kind.key]
    rows: list[list[float | None]] = []
    labels: list[str] = []
    for layer in reversed(range(len(first))):
        labels.append("embed" if kind.embed and layer == 0 else f"layer {layer - 1 if kind.embed else layer}")
        if isinstance(first[layer], list):
            rows += [[r[kind.key][layer][head] for r in records] for head in range(len(first[layer]))]
        else:
            rows.append([r[kind.key][layer] for r in records])
    return rows, labels


def health(records: list[Record]) -> Markup:
    """A heat-map for each measure, layers by steps."""
    figures = []
    for kind in MAPS:
        mine = thin([r for r in records if r.get(kind.key)], MAP_COLUMNS)
        if not mine:
            continue
        rows, labels = grid(mine, kind)
        flat = [value for row in rows for value in row]
        scale = scale_of(flat, kind.log, kind.low, kind.high)
        if kind.low is None:  # as in the microscope, so that a value has one colour in both
            scale = replace(scale, low=min(scale.low, scale.high - kind.span))
        else:
            scale = replace(scale, high=max(scale.high, scale.low + kind.span))
        alt = f"{kind.title} by layer and step, between {kind.fmt(scale.low)} and {kind.fmt(scale.high)}."
        drawn = heat_map(rows, labels, scale, alt, tall=max(4, min(24, 150 // len(rows))))
        ends = [tag("span", f"step {r['step']:,}") for r in (mine[0], mine[-1])]
        header = tag("header", tag("h3", kind.title), legend(scale, kind.fmt))
        note = tag("p", kind.note, class_="note")
        figures.append(tag("figure", header, note, drawn, tag("p", ends, class_="span"), class_="panel"))
    if not figures:
        return EMPTY
    lead = "Inside the model while it trained: layers as rows, the last on top, and steps as columns."
    return section("Health", lead, tag("div", figures, class_="panels"))


def lens(finding: Record) -> Markup:
    """The logit lens as tables: what each layer would say next, shaded by its probability; the ten likeliest on pointing."""
    data, scale = finding["data"], Scale(0.0, 1.0, root=True)
    starts = range(0, len(data["tokens"]), LENS_COLUMNS)
    tables = [_lens_table(data, start, start + LENS_COLUMNS, scale) for start in starts]
    lead = (
        "What each layer would say next if it were the last, the more surely the lighter. "
        f"{words(finding.get('summary'), 2000)}"
    )
    said = tag("h3", "What it says after ", tag("code", visible(words(data["tokens"][-1], 200))))
    notes = [tag("p", words(note, 1000), class_="note") for note in notes_of(finding)]
    after = tag("div", said, bars(data["top"][-1][-1], share), class_="said")
    return section("The logit lens", lead, legend(scale, share), notes, tables, after)


def notes_of(finding: Record) -> list[Any]:
    """What the instrument adds, such as that the prompt is longer than the model was trained on."""
    notes = finding.get("notes") or finding["data"].get("notes") or []
    return notes if isinstance(notes, list) else [notes]


def _lens_table(data: Record, start: int, end: int, scale: Scale) -> Markup:
    """The positions from start to end, the last layer on top."""
    tokens = data["tokens"][start:end]

    def cell(ranked: list[list[Any]]) -> Markup:
        token, p = ranked[0]
        t = scale.share(p)
        tip = "\n".join(f"{share(q):>6}  {other!r}" for other, q in ranked)
        return tag("td", visible(token), style=f"background:{css(t)};color:{ink_on(t)}", title=tip)

    rows = [
        tag("tr", tag("th", words(name, 200), scope="row"), [cell(ranked) for ranked in top[start:end]])
        for name, top in reversed(list(zip(data["layers"], data["top"], strict=True)))
    ]
    reads = [tag("th", visible(token), scope="col", class_="token") for token in tokens]
    foot = tag("tfoot", tag("tr", tag("th", "reads", scope="row"), reads))
    return tag("div", tag("table", tag("tbody", rows), foot), class_="scroll lens-grid")


def features(finding: Record) -> Markup:
    """The most telling features of a dictionary, each with examples in lit tokens and the tokens it makes likelier."""
    data, given = listing(finding), finding["data"]["features"]
    told = [feature for each in given[:FEATURES] if (feature := whole(each)) is not None]
    if not told:
        return EMPTY
    places = data["places"] or []
    cards = []
    for feature in told:
        examples = sorted(feature["examples"], key=lambda e: -max(e["acts"], default=0.0))[:EXAMPLES]
        lit = [lit_tokens(e["tokens"], e["acts"], feature["max"]) for e in examples]
        fires = tag("small", f"fires on {share(feature['density'])} of tokens")
        header = tag("header", tag("h3", f"Feature {feature['id']}"), fires)
        cards.append(tag("article", header, lit, _says(feature), shares(places, feature["shares"] or [])))
    facts = (
        f"A sparse dictionary on {data['site']} explains {share(1 - (data['fvu'] or 0.0))} of what is there "
        f"with {data['l0'] or 0:.3g} features a token. These are the most telling; "
        "a token is lit as strongly as its feature fires."
    )
    if not any(feature["top_logits"] for feature in told):
        facts += " It writes to no place of the residual stream, so it has no direct effect on the logits."
    return section("What it knows", facts, place_key(places), tag("div", cards, class_="cards"))


def _says(feature: Record) -> Markup:
    tokens = [tag("code", visible(token)) for token, _ in feature["top_logits"][:6]]
    return tag("p", tag("small", "makes likelier"), " ", tokens, class_="says") if tokens else EMPTY
