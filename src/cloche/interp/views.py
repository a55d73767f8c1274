"""Findings for the eye: rows of text, an SVG picture, an HTML page. No plotting library, no external request."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

Data = dict[str, Any]
Rows = tuple[list[str], list[list[str]]]
_INK, _FILL = "#1c2733", "#2f6f8f"
_LINES = (_FILL, "#c2692b", "#6a4c93", "#4d8b4a")
_SIGNS = {" ": "·", "\n": "↵", "\t": "→"}


class View(NamedTuple):
    """How one instrument shows its data."""

    rows: Callable[[Data], Rows]
    picture: Callable[[Data], str]


def rows(instrument: str, data: Data) -> Rows:
    """Header and rows of an instrument's table."""
    return _view(instrument).rows(data)


def picture(instrument: str, data: Data) -> str:
    """An instrument's SVG."""
    return _view(instrument).picture(data)


def page(instrument: str, summary: str, data: Data) -> str:
    """HTML for a notebook: the sentence, the picture, the table."""
    header, body = rows(instrument, data)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<div><p><b>{escape(instrument)}</b>: {escape(summary)}</p>{picture(instrument, data)}{table}</div>"


def text_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns of text under a rule."""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *body)]
    return "\n".join(line.rstrip() for line in (lines[0], "  ".join("-" * width for width in widths), *lines[1:]))


def visible(token: str) -> str:
    """A token with its blanks and control characters made visible."""
    return (
        "".join(_SIGNS.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token) or "∅"
    )


# ---- logit lens


def _lens_rows(data: Data) -> Rows:
    """One row a layer: its first token at each position."""
    body = [
        [name, *(visible(position[0][0]) for position in layer)]
        for name, layer in zip(data["layers"], data["top"], strict=True)
    ]
    return ["layer", *map(visible, data["tokens"])], body


def _lens_picture(data: Data) -> str:
    """A cell a layer and position, the last layer on top: the first token, darker where it is likelier."""
    wide, high, left, top = 74, 22, 110, 24
    tokens, layers = data["tokens"], data["layers"]
    parts = [_text(left + (p + 0.5) * wide, 16, visible(token), "middle") for p, token in enumerate(tokens)]
    for row, layer in enumerate(reversed(range(len(layers)))):
        y = top + row * high
        parts.append(_text(left - 6, y + 15, layers[layer], "end"))
        for p, ranked in enumerate(data["top"][layer]):
            token, share = ranked[0]
            x = left + p * wide
            tip = "\n".join(f"{q:.3f}  {visible(other)}" for other, q in ranked)
            parts.append(
                f'<g><title>{escape(tip)}</title><rect x="{x}" y="{y}" width="{wide - 1}" height="{high - 1}" '
                f'fill="{_FILL}" fill-opacity="{0.06 + 0.74 * share:.3f}"/>'
                f"{_text(x + wide / 2, y + 15, visible(token)[:9], 'middle')}</g>"
            )
    return _svg(left + wide * len(tokens), top + high * len(layers), parts)


# ---- features


def _feature_rows(data: Data) -> Rows:
    """One row a feature, most telling first: how often, how strongly, the tokens it makes likelier, where it fires."""
    body = [
        [
            str(feature["id"]),
            f"{feature['density']:.2%}",
            f"{feature['max']:.3g}",
            " ".join(visible(token) for token, _ in feature["top_logits"][:5]),
            _snippet(feature["examples"][0]) if feature["examples"] else "",
        ]
        for feature in data["features"]
    ]
    return ["feature", "density", "max", "makes likelier", "fires most in"], body


def _snippet(example: Data) -> str:
    peak = max(range(len(example["acts"])), key=example["acts"].__getitem__)
    words = [visible(token) for token in example["tokens"]]
    return f"{''.join(words[max(0, peak - 6) : peak])}[{words[peak]}]{''.join(words[peak + 1 : peak + 4])}"


def _feature_picture(data: Data) -> str:
    """Features by density: how many fire on which share of the tokens."""
    edges, counts = data["density_histogram"]["edges"], data["density_histogram"]["counts"]
    wide, high, left = 24, 150, 10
    most = max([*counts, 1])
    parts = []
    for i, count in enumerate(counts):
        tall = high * count / most
        tip = f"{count} features fire on {10 ** edges[i]:.2g} to {10 ** edges[i + 1]:.2g} of the tokens"
        parts.append(
            f'<rect x="{left + i * wide}" y="{20 + high - tall:.1f}" width="{wide - 2}" height="{tall:.1f}" fill="{_FILL}">'
            f"<title>{tip}</title></rect>"
        )
    for power in range(math.ceil(edges[0]), math.floor(edges[-1]) + 1):
        x = left + (power - edges[0]) / (edges[-1] - edges[0]) * wide * len(counts)
        parts.append(_text(x, high + 38, f"1e{power}", "middle"))
    parts.append(_text(left, 14, "features, by the share of tokens they fire on", "start"))
    return _svg(left * 2 + wide * len(counts), high + 46, parts)


# ---- activation density


def _density_rows(data: Data) -> Rows:
    """One row a site: the share of its units active at a token by each criterion, those never active, and no threshold."""
    body = [
        [
            row["site"],
            str(row["units"]),
            *(f"{share:.2%}" for share in row["density"]),
            f"{row['dead'][data['criteria'].index(row['headline'])]:.1%}",
            f"{row['hoyer']:.2f}",
            "" if row["kurtosis"] is None else f"{row['kurtosis']:.1f}",
        ]
        for row in data["sites"]
    ]
    return ["site", "units", *data["criteria"], "never active", "Hoyer", "kurtosis"], body


def _density_picture(data: Data) -> str:
    """A bar a site on a log axis, by the criterion that fits it, over the spans of what is claimed."""
    wide, high, left, top, decades = 360, 18, 110, 34, 4
    tall = high * len(data["sites"])

    def x(share: float) -> float:
        return left + wide * (1 + max(math.log10(share), -decades) / decades if share > 0 else 0)

    parts = []
    for name, (low, up) in data["claims"].items():
        parts.append(
            f'<rect x="{x(low):.1f}" y="{top}" width="{x(up) - x(low):.1f}" height="{tall}" fill="{_INK}" fill-opacity="0.1"/>'
        )
        parts.append(_text((x(low) + x(up)) / 2, top - 6, name, "middle"))
    for i, row in enumerate(data["sites"]):
        share = row["density"][data["criteria"].index(row["headline"])]
        y = top + i * high
        parts.append(_text(left - 6, y + 13, row["site"], "end"))
        parts.append(
            f'<rect x="{left}" y="{y + 3}" width="{max(x(share) - left, 1):.1f}" height="{high - 6}" fill="{_FILL}">'
            f"<title>{share:.2%} {escape(row['headline'])}</title></rect>"
        )
    for power in range(-decades, 1):
        parts.append(_text(x(10**power), top + tall + 16, f"{10**power:.4g}", "middle"))
    parts.append(_text(left, 12, "share of the units active at a token", "start"))
    return _svg(left + wide + 30, top + tall + 24, parts)


# ---- a dictionary


def _dictionary_rows(data: Data) -> Rows:
    """Its figures, a line each."""
    recovered, gap = data["recovered"], data["gap"]
    body = [
        ["site", data["site"]],
        [
            "features",
            f"{data['features']:,} ({data['kind']} {data.get('wiring', '')}, trained on {data['trained_on']:,} activations)",
        ],
        ["held-out tokens", f"{data['tokens_seen']:,}"],
        ["variance unexplained", f"{data['fvu']:.4f}"],
        ["active a token", f"{data['l0']:.2f}"],
        ["never active", f"{data['dead_share']:.1%}"],
        ["cross-entropy: the model's own", f"{recovered['clean']:.4f} nats"],
        ["with the reconstruction put back", f"{recovered['spliced']:.4f} nats"],
        ["with the mean put there", f"{recovered['ablated']:.4f} nats"],
        ["recovered", "the mean costs nothing" if recovered["share"] is None else f"{recovered['share']:.1%}"],
        ["KL from the model's predictions", f"{recovered['kl']:.4f} nats"],
    ]
    if gap:
        body += [
            ["unexplained, on fewer tokens: by its own encoder", f"{gap['own']['fvu']:.4f}"],
            ["by non-negative OMP over the same atoms", f"{gap['same_atoms']['fvu']:.4f}"],
            ["so for want of a better encoder", f"{gap['of_encoder']:.4f}"],
        ]
    return ["what", "value"], body


# ---- sparse probing


def _means(data: Data, basis: str, figure: str, which: str) -> list[float]:
    """A figure's means over the labels, by number of units: of the probes, or of those for labels in disorder."""
    told = [[score[figure] for score in label["bases"][basis][which]] for label in data["labels"]]
    return [sum(scores) / len(scores) for scores in zip(*told, strict=True)]


def _all_units(data: Data, basis: str, figure: str) -> float:
    scores = [label["bases"][basis]["dense"][figure] for label in data["labels"]]
    return float(sum(scores) / len(scores))


def _probing_rows(data: Data) -> Rows:
    """A row a basis for the mean over labels, then one for each label: F1 (AUROC) by number of units, with all, in disorder."""

    def cells(scores: Sequence[Data]) -> list[str]:
        return [f"{score['f1']:.2f} ({score['auroc']:.2f})" for score in scores]

    body = []
    for basis in (basis["name"] for basis in data["bases"]):
        means = [
            {"f1": f1, "auroc": area}
            for which in ("k", "shuffled")
            for f1, area in zip(*(_means(data, basis, name, which) for name in ("f1", "auroc")), strict=True)
        ]
        dense = {name: _all_units(data, basis, name) for name in ("f1", "auroc")}
        count = len(data["ks"])
        body.append(["all labels", basis, *cells([*means[:count], dense, means[-1]])])
    for label in data["labels"]:
        for basis, told in label["bases"].items():
            body.append([label["name"], basis, *cells([*told["k"], told["dense"], told["shuffled"][-1]])])
    return ["label", "basis", *(f"k = {k}" for k in data["ks"]), "all units", "in disorder"], body


def _probing_picture(data: Data) -> str:
    """AUROC, the mean over labels, by number of units: a line a basis, dashed with all units, dotted for labels in disorder."""
    wide, high, left, top, low = 360, 180, 44, 26, 0.4
    ks = data["ks"]

    def x(i: int) -> float:
        return left + wide * (i + 0.5) / len(ks)

    def y(value: float) -> float:
        return top + high * (1 - max(value - low, 0) / (1 - low))

    parts = [_text(left, 14, "AUROC, mean over labels, by number of units", "start")]
    parts += [_text(left - 6, y(tick / 10) + 4, f"{tick / 10:.1f}", "end") for tick in range(5, 11)]
    parts += [_text(x(i), top + high + 16, str(k), "middle") for i, k in enumerate(ks)]
    for number, basis in enumerate(basis["name"] for basis in data["bases"]):
        colour = _LINES[number % len(_LINES)]
        for which, dash in (("k", ""), ("shuffled", ' stroke-dasharray="1 4"')):
            places = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(_means(data, basis, "auroc", which)))
            parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        level = y(_all_units(data, basis, "auroc"))
        parts.append(
            f'<line x1="{left}" x2="{left + wide}" y1="{level:.1f}" y2="{level:.1f}" stroke="{colour}" stroke-dasharray="6 4"/>'
        )
        at = top + 14 + 16 * number
        parts.append(f'<rect x="{left + wide + 12}" y="{at - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(left + wide + 28, at, basis, "start"))
    return _svg(left + wide + 150, top + high + 24, parts)


# ---- anything else


def _plain_rows(data: Data) -> Rows:
    """The figures of an instrument that has no view of its own."""
    shown = {key: value for key, value in data.items() if isinstance(value, str | int | float)}
    return ["what", "value"], [[key, str(value)] for key, value in shown.items()]


def _no_picture(data: Data) -> str:
    return _svg(10, 10, [])


_VIEWS = {
    "logit-lens": View(_lens_rows, _lens_picture),
    "features": View(_feature_rows, _feature_picture),
    "dictionary": View(_dictionary_rows, _feature_picture),
    "activation-density": View(_density_rows, _density_picture),
    "sparse-probing": View(_probing_rows, _probing_picture),
}


def _view(instrument: str) -> View:
    return _VIEWS.get(instrument, View(_plain_rows, _no_picture))


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'font-family="ui-monospace, monospace" font-size="11">{"".join(parts)}</svg>'
    )
