"""The report's chapters on what the model says, what goes on inside it, and what its features are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from cloche.microscope.columns import thin
from cloche.microscope.drawing import Scale, bars, css, heat_map, ink_on, legend, lit_tokens, scale_of, visible
from cloche.microscope.measures import place_key, shares

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


def samples(records: list[Record]) -> str:
    """Continuations of the first prompts at some moments from first to last, and what the model expects next at the end."""
    prompts = list(dict.fromkeys(r["prompt"] for r in records))[:PROMPTS]
    blocks = []
    for prompt in prompts:
        mine = [r for r in records if r["prompt"] == prompt]
        items = "".join(
            f'<li><small>step {r["step"]:,}</small><p class="sample"><span class="given">{escape(prompt)}</span>'
            f"<span>{escape(r['text'])}</span></p></li>"
            for r in thin(mine, MOMENTS)
        )
        blocks.append(f'<h3><code>{visible(prompt)}</code></h3><ol class="through">{items}</ol>')
    if not blocks:
        return ""
    lead = "The same prompts, again and again, as it grew."
    return f'<section class="prompts"><h2>Growing up</h2><p class="lead">{lead}</p>{"".join(blocks)}</section>'


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


def health(records: list[Record]) -> str:
    """A heat-map for each measure, layers by steps."""
    figures = []
    for kind in MAPS:
        mine = thin([r for r in records if r.get(kind.key)], MAP_COLUMNS)
        if not mine:
            continue
        rows, labels = grid(mine, kind)
        flat = [value for row in rows for value in row]
        scale = scale_of(flat, kind.log, kind.low, kind.high)
        scale = replace(scale, high=max(scale.high, scale.low + kind.span))
        alt = f"{kind.title} by layer and step, between {kind.fmt(scale.low)} and {kind.fmt(scale.high)}."
        drawn = heat_map(rows, labels, scale, alt, tall=max(4, min(24, 150 // len(rows))))
        ends = f'<p class="span"><span>step {mine[0]["step"]:,}</span><span>step {mine[-1]["step"]:,}</span></p>'
        figures.append(
            f'<figure class="panel"><header><h3>{kind.title}</h3>{legend(scale, kind.fmt)}</header>'
            f'<p class="note">{kind.note}</p>{drawn}{ends}</figure>'
        )
    if not figures:
        return ""
    lead = "Inside the model while it trained: layers as rows, the last on top, and steps as columns."
    return f'<section><h2>Health</h2><p class="lead">{lead}</p><div class="panels">{"".join(figures)}</div></section>'


def lens(finding: Record) -> str:
    """The logit lens as tables: what each layer would say next, shaded by its probability; the ten likeliest on pointing."""
    data, scale = finding["data"], Scale(0.0, 1.0, root=True)
    starts = range(0, len(data["tokens"]), LENS_COLUMNS)
    tables = "".join(_lens_table(data, start, start + LENS_COLUMNS, scale) for start in starts)
    return (
        f'<section><h2>The logit lens</h2><p class="lead">What each layer would say next if it were the last, '
        f"the more surely the lighter. {escape(finding.get('summary', ''))}</p>{legend(scale, share)}{tables}"
        f'<div class="said"><h3>What it says after <code>{visible(data["tokens"][-1])}</code></h3>'
        f"{bars(data['top'][-1][-1], share)}</div></section>"
    )


def _lens_table(data: Record, start: int, end: int, scale: Scale) -> str:
    """The positions from start to end, the last layer on top."""
    tokens = data["tokens"][start:end]

    def cell(ranked: list[list[Any]]) -> str:
        token, p = ranked[0]
        t = scale.share(p)
        tip = escape("\n".join(f"{share(q):>6}  {other!r}" for other, q in ranked))
        return f'<td style="background:{css(t)};color:{ink_on(t)}" title="{tip}">{visible(token)}</td>'

    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(cell(ranked) for ranked in top[start:end])}</tr>'
        for name, top in reversed(list(zip(data["layers"], data["top"], strict=True)))
    )
    reads = "".join(f'<th scope="col" class="token">{visible(token)}</th>' for token in tokens)
    foot = f'<tfoot><tr><th scope="row">reads</th>{reads}</tr></tfoot>'
    return f'<div class="scroll lens-grid"><table><tbody>{rows}</tbody>{foot}</table></div>'


def features(finding: Record) -> str:
    """The most telling features of a dictionary, each with examples in lit tokens and the tokens it makes likelier."""
    data = finding["data"]
    cards = []
    for feature in data.get("features", [])[:FEATURES]:
        examples = sorted(feature.get("examples", []), key=lambda e: -max(e["acts"], default=0.0))[:EXAMPLES]
        lit = "".join(lit_tokens(e["tokens"], e["acts"], feature["max"]) for e in examples)
        lives = shares(data.get("places") or [], feature.get("shares") or [])
        cards.append(
            f"<article><header><h3>Feature {feature['id']}</h3><small>fires on {share(feature['density'])} of tokens</small>"
            f"</header>{lit}{_says(feature)}{lives}</article>"
        )
    if not cards:
        return ""
    explained = share(1 - (data.get("fvu") or 0.0))
    facts = (
        f"A sparse dictionary on {escape(str(data.get('site')))} explains {explained} of what is there "
        f"with {data.get('l0') or 0:.3g} features a token. These are the most telling; "
        "a token is lit as strongly as its feature fires."
    )
    if not any(feature.get("top_logits") for feature in data["features"]):
        facts += " It writes to no place of the residual stream, so it has no direct effect on the logits."
    return (
        f'<section><h2>What it knows</h2><p class="lead">{facts}</p>{place_key(data.get("places") or [])}'
        f'<div class="cards">{"".join(cards)}</div></section>'
    )


def _says(feature: Record) -> str:
    tokens = "".join(f"<code>{visible(token)}</code>" for token, _ in feature.get("top_logits", [])[:6])
    return f'<p class="says"><small>makes likelier</small> {tokens}</p>' if tokens else ""
