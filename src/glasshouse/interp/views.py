"""Findings for the eye: rows of text, an SVG picture, an HTML page. No plotting library, no external request."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

Data = dict[str, Any]
Rows = tuple[list[str], list[list[str]]]
_INK, _FILL = "#1c2733", "#2f6f8f"
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
    "activation-density": View(_density_rows, _density_picture),
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
