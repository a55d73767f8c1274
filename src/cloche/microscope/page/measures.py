"""Rows on one scale, shares of a whole and lines over named columns, as HTML and SVG: what the app draws in static/measures.js
and static/lines.js, with the same classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cloche.microscope.page.drawing import css
from cloche.microscope.page.markup import EMPTY, Child, Markup, tag

GLYPHS = ("●", "■", "▲", "◆")
TONES = ("first", "second", "third", "fourth")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 270, 40, 14, 12, 40
Place = Callable[[float], float]


@dataclass(frozen=True)
class Mark:
    """A bar or a reach (a thin line) from one value to another, or a dot at `end`."""

    kind: Literal["bar", "reach", "dot"]
    end: float
    start: float = 0.0
    tone: str = "first"

    def html(self, at: Place) -> Markup:
        start, end = _inside(at(self.start)), _inside(at(self.end))
        place = f"left:{min(start, end):.2f}%;width:{abs(end - start):.2f}%"
        return tag("b", class_=f"{self.kind} {self.tone}", style=f"left:{end:.2f}%" if self.kind == "dot" else place)


@dataclass(frozen=True)
class Row:
    """One labelled row: its marks, and its figures."""

    name: str
    marks: tuple[Mark, ...]
    text: Child


@dataclass(frozen=True)
class Band:
    """A span of the scale that has a name of its own."""

    name: str
    low: float
    high: float


def _inside(place: float) -> float:
    return min(100.0, max(0.0, place))


def measures(
    label: str, rows: Sequence[Row], at: Place, bands: Sequence[Band] = (), ticks: Sequence[tuple[float, str]] = ()
) -> Markup:
    """The rows on one scale; `at` says where a value stands, in percent."""

    def heads(kind: str, places: Sequence[tuple[float, str]]) -> Markup:
        spans = [tag("span", text, style=f"left:{place:.2f}%") for place, text in places]
        return tag("p", spans, class_=kind, aria_hidden="true") if places else EMPTY

    spans = [(_inside(at(band.low)), _inside(at(band.high))) for band in bands]
    behind = [tag("b", class_="band", style=f"left:{low:.2f}%;width:{high - low:.2f}%") for low, high in spans]
    items = [
        tag(
            "li",
            tag("span", row.name, class_="name"),
            tag("i", behind, [mark.html(at) for mark in row.marks]),
            tag("span", row.text, class_="num"),
        )
        for row in rows
    ]
    above = heads("bands", [((low + high) / 2, band.name) for band, (low, high) in zip(bands, spans, strict=True)])
    below = heads("ticks", [(_inside(at(value)), text) for value, text in ticks])
    return tag("div", above, tag("ul", items, aria_label=label), below, class_="measures")


def lengths(
    label: str, rows: Sequence[tuple[str, float, str]], fmt: Callable[[float], str], start: float = 0.0
) -> Markup:
    """Bars from zero or from another value, the furthest full width. Rows are (name, value, tone)."""
    values = [start, *(value for _, value, _ in rows)]
    low, wide = min(values), (max(values) - min(values)) or 1.0
    drawn = [Row(name, (Mark("bar", value, start, tone),), fmt(value)) for name, value, tone in rows]
    return measures(label, drawn, lambda value: 100 * (value - low) / wide)


def _tint(i: int, count: int) -> str:
    return css(0.3 + 0.5 * i / max(1, count - 1))


def shares(places: Sequence[str], parts: Sequence[float]) -> Markup:
    """A bar divided into the shares of each place, which sum to 1. Nothing is drawn of a single place."""
    if len(places) < 2 or len(parts) != len(places):
        return EMPTY
    words = ", ".join(f"{place} {part:.0%}" for place, part in zip(places, parts, strict=True))
    inner = [
        tag("i", style=f"width:{100 * part:.2f}%;background:{_tint(i, len(places))}") for i, part in enumerate(parts)
    ]
    return tag("span", inner, class_="shares", role="img", aria_label=words, title=words)


def place_key(places: Sequence[str]) -> Markup:
    """The places' names beside their colours, where there are several."""
    if len(places) < 2:
        return EMPTY
    names = [
        tag("span", tag("i", style=f"background:{_tint(i, len(places))}"), place) for i, place in enumerate(places)
    ]
    return tag("p", names, class_="key places")


@dataclass(frozen=True)
class Series:
    """One line: a value for each column, None where there is none; a faint one is drawn thin and without marks."""

    name: str
    values: tuple[float | None, ...]
    tone: int
    faint: bool = False


def lines(label: str, columns: Sequence[str], series: Sequence[Series], x_name: str) -> Markup:
    """Scores between 0 and 1 over named columns. The axis begins at the tenth below the lowest score."""
    known = [value for one in series for value in one.values if value is not None]
    low = min(math.floor(10 * min(known) + 1e-9) / 10, 0.8)

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / len(columns)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value) / (1 - low)

    parts = []
    for tenth in range(round(10 * low), 11, 2 if low < 0.4 else 1):
        at = y(tenth / 10)
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}"))
        parts.append(tag("text", f"{tenth / 10:.1f}", x=LEFT - 8, y=f"{at + 4:.1f}", text_anchor="end"))
    for i, column in enumerate(columns):
        parts.append(tag("text", column, x=f"{x(i):.1f}", y=HEIGHT - BOTTOM + 18, text_anchor="middle"))
    parts.append(tag("text", x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle"))
    words = []
    for one in series:
        points = [(x(i), y(value), value) for i, value in enumerate(one.values) if value is not None]
        drawn = [tag("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points))]
        if not one.faint:
            drawn += [tag("g", _shape(one.tone, a, b), tag("title", f"{one.name}: {v:.2f}")) for a, b, v in points]
            words.append(f"{one.name}: {', '.join(f'{v:.2f}' for _, _, v in points)}")
        parts.append(tag("g", drawn, class_=f"{TONES[one.tone]}{' faint' if one.faint else ''}"))
    told = f"{label}. {'. '.join(words)}."
    return tag("svg", parts, class_="lines", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=told)


def _shape(kind: int, x: float, y: float) -> Markup:
    r = 4.2
    if kind == 1:
        return tag("rect", x=f"{x - r:.1f}", y=f"{y - r:.1f}", width=2 * r, height=2 * r)
    if kind == 2:
        return tag("path", d=f"M{x:.1f} {y - r - 1:.1f}L{x + r + 1:.1f} {y + r:.1f}L{x - r - 1:.1f} {y + r:.1f}Z")
    if kind == 3:
        across = f"L{x + r + 1:.1f} {y:.1f}L{x:.1f} {y + r + 1:.1f}L{x - r - 1:.1f} {y:.1f}Z"
        return tag("path", d=f"M{x:.1f} {y - r - 1:.1f}{across}")
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=r)
