"""Panels as HTML and SVG without scripts, for notebooks and the report; the microscope draws the same CSS classes
with its own modules (static/panels)."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from cloche.drawing import svg
from cloche.drawing.markup import EMPTY, Child, Markup, join, tag
from cloche.drawing.panels import Bars, Graph, Heatmap, Lines, Panel, Scatter, Table, Text, Tokens
from cloche.drawing.scale import Scale, css, ink_on, png, scale_of
from cloche.drawing.svg import GLYPHS, styles
from cloche.drawing.words import FORMS, visible, written

MOST_ROWS, CELLS_AS_TEXT, PASSAGES = 200, 6_000, 12
MOST_LETTERS = 48  # of the names below a heat map; if there are more, only the first and the last are written
DECADES = 4  # shown of a logarithmic axis of shares
Place = Callable[[float], float]


def as_html(panel: Panel) -> Markup:
    """One panel as a figure with its title and its note.

    >>> from cloche.drawing import Text, as_html
    >>> as_html(Text("", "1 < 2"))
    Markup('<figure class="drawn text-panel"><p class="text">1 &lt; 2</p></figure>')
    """
    drawn, key = _DRAWN[type(panel)](panel), _key(panel)
    title = tag("h3", panel.title) if panel.title else EMPTY
    note = EMPTY if isinstance(panel, Text) or not panel.note else tag("p", panel.note, class_="note")
    head = tag("figcaption", title, key) if title or key else EMPTY
    return tag("figure", head, drawn, note, class_=f"drawn {type(panel).__name__.lower()}-panel")


def figures(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """Named figures in large print.

    >>> from cloche.drawing import figures
    >>> figures([("steps", "500")]).html
    '<dl class="figures"><div><dt>steps</dt><dd>500</dd></div></dl>'
    """
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="figures")


def _key(panel: Panel) -> Markup:
    """The names of the series with their marks, or the colour scale with its ends."""
    if isinstance(panel, Heatmap):
        return legend(_scale(panel), FORMS[panel.form])
    if isinstance(panel, Scatter) and panel.values:
        return legend(scale_of(panel.values), FORMS["number"])
    series = panel.series if isinstance(panel, Lines | Bars) else ()
    if len(series) < 2:
        return EMPTY
    marks = [(one, css_class, "┄" if one.control else GLYPHS[tone]) for one, tone, css_class in styles(series)]
    return tag("p", [tag("span", tag("i", mark), one.name, class_=kind) for one, kind, mark in marks], class_="series")


def legend(scale: Scale, form: Callable[[float], str]) -> Markup:
    """The colour scale labelled at its ends, and in the middle if that is not half way."""

    def bar(start: float, end: float) -> Markup:
        stops = ", ".join(css(start + (end - start) * i / 15) for i in range(16))
        return tag("i", style=f"background-image:linear-gradient(90deg,{stops})")

    quarter = form(scale.low + (scale.high - scale.low) / 4)
    between = [bar(0, 0.5), tag("span", quarter), bar(0.5, 1)] if scale.root else bar(0, 1)
    return tag("span", tag("span", form(scale.low)), between, tag("span", form(scale.high)), class_="legend")


def _scrolling(inner: Markup, name: str) -> Markup:
    """A box that scrolls sideways and can be focused, for content that may be wider than the page."""
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=name or "table")


def _left_out(given: Sequence[Any], most: int, what: str = "") -> Markup:
    return tag("p", f"… {len(given) - most:,} more{what}", class_="note") if len(given) > most else EMPTY


# ---- tables and texts


def _table(panel: Table) -> Markup:
    forms = panel.forms or ("number",) * len(panel.columns)
    first = tag("th", panel.columns[0], scope="col") if panel.columns and panel.columns[0] else tag("td")
    words = [
        all(isinstance(row[i], str) for row in panel.rows) for i in range(len(panel.columns))
    ]  # written to the left
    heads = [
        tag("th", name, scope="col", class_="words" if left else None)
        for name, left in zip(panel.columns[1:], words[1:], strict=True)
    ]
    head = tag("tr", first, heads)

    def cell(value: Any, form: str) -> Markup:
        shown = written(value, form)
        inner = tag("code", shown) if form == "token" and shown else shown
        return tag("td", inner, class_="words" if isinstance(value, str) else None)

    body = [
        tag("tr", tag("th", written(row[0], forms[0]), scope="row"), map(cell, row[1:], forms[1:]))
        for row in panel.rows[:MOST_ROWS]
        if row
    ]
    drawn = tag("table", tag("thead", head), tag("tbody", body), class_="data")
    return join(_scrolling(drawn, panel.title), _left_out(panel.rows, MOST_ROWS, " rows"))


def _text(panel: Text) -> Markup:
    return tag("p", panel.text, class_="text")


def _tokens(panel: Tokens) -> Markup:
    high = panel.high or max((value or 0.0 for each in panel.passages for value in each.values), default=0.0)
    items = []
    for each in panel.passages[:PASSAGES]:
        lit = [_lit(token, value or 0.0, high) for token, value in zip(each.tokens, each.values, strict=True)]
        name = tag("b", each.name) if each.name else EMPTY
        items.append(tag("li", name, tag("span", lit, class_="tokens"), tag("small", each.note)))
    return join(tag("ul", items, class_="passages"), _left_out(panel.passages, PASSAGES))


def _lit(token: str, value: float, high: float) -> Markup:
    strength = min(1.0, max(0.0, value / high)) if high > 0 else 0.0
    shown = token.replace("\n", "↵")
    if strength <= 0.02:
        return tag("span", shown)
    return tag("span", shown, class_="lit", style=f"--lit:{strength:.2f}", title=f"{value:.3g}")


# ---- heat maps


def _scale(panel: Heatmap) -> Scale:
    return scale_of(tuple(chain(*panel.values)), panel.scale, panel.low, panel.high)


def _heatmap(panel: Heatmap) -> Markup:
    scale, form = _scale(panel), FORMS[panel.form]
    if panel.texts and len(panel.rows) * len(panel.columns) <= CELLS_AS_TEXT:
        return _cells(panel, scale)
    if not (panel.rows and panel.columns):
        return EMPTY
    height = f"height:{max(4, min(22, 240 // len(panel.rows))) * len(panel.rows)}px"
    names = tag("div", [tag("span", name) for name in panel.rows], class_="rows", style=height)
    size = f"{len(panel.rows)} rows, {len(panel.columns)} columns"
    said = f"{panel.title}: {size}, {form(scale.low)} to {form(scale.high)}"
    uri = base64.b64encode(png(panel.values, scale)).decode()
    drawn = tag("img", alt=said, style=height, src=f"data:image/png;base64,{uri}")
    fit = len(panel.columns) * (max(map(len, panel.columns)) + 2) <= MOST_LETTERS
    shown = panel.columns if fit else (panel.columns[0], panel.columns[-1])
    below = tag("p", [tag("span", name) for name in shown], class_="span each" if fit else "span")
    return tag("div", names, drawn, below, class_="map")


def _cells(panel: Heatmap, scale: Scale) -> Markup:
    def cell(row: int, column: int) -> Markup:
        value = panel.values[row][column]
        t = None if value is None else scale.share(value)
        style = None if t is None else f"background:{css(t)};color:{ink_on(t)}"
        tip = panel.tips[row][column] if panel.tips else FORMS[panel.form](value)
        return tag("td", visible(panel.texts[row][column]), style=style, title=tip)

    columns = range(len(panel.columns))
    body = [
        tag("tr", tag("th", name, scope="row"), [cell(row, c) for c in columns]) for row, name in enumerate(panel.rows)
    ]
    foot = tag("tr", tag("td"), [tag("th", visible(name), scope="col") for name in panel.columns])
    return _scrolling(tag("table", tag("tbody", body), tag("tfoot", foot), class_="cells"), panel.title)


# ---- bars


def _bars(panel: Bars) -> Markup:
    values = [v for one in panel.series for v in (*one.values, *one.low, *one.high) if v is not None]
    low, high = min([panel.start, *values]), max([panel.start, *values, *(band[2] for band in panel.bands)])
    top = math.ceil(math.log10(high)) if high > 0 else 0
    decades = [10.0 ** (top - i) for i in range(DECADES, -1, -1)] if panel.log else []
    scale = Scale(decades[0], decades[-1], log=True) if panel.log else Scale(low, high if high > low else low + 1)

    def at(value: float) -> float:
        return 100 * scale.share(value)

    behind = [tag("b", class_="band", style=_across(at(start), at(end))) for _, start, end in panel.bands]
    above = [((at(start) + at(end)) / 2, name) for name, start, end in panel.bands]
    below = [(at(value), FORMS[panel.form](value)) for value in decades]
    items = [_bar_row(panel, i, at, behind) for i in range(min(len(panel.rows), MOST_ROWS))]
    return tag("div", _heads("bands", above), tag("ul", items), _heads("ticks", below), class_="measures")


def _bar_row(panel: Bars, i: int, at: Place, behind: list[Markup]) -> Markup:
    drawn, words = [], []
    for one, _, css_class in styles(panel.series):
        value = one.values[i]
        words.append(tag("b", FORMS[panel.form](value), class_=css_class))
        if value is None:
            continue
        if not (panel.log or one.low):
            drawn.append(tag("b", class_=f"bar {css_class}", style=_across(at(panel.start), at(value))))
            continue
        ends = [v for v in (*one.low[i : i + 1], *one.high[i : i + 1]) if v is not None]
        if len(ends) == 2:
            drawn.append(tag("b", class_=f"reach {css_class}", style=_across(*map(at, ends))))
        drawn.append(tag("b", class_=f"dot {css_class}", style=f"left:{at(value):.2f}%"))
    name, numbers = tag("span", panel.rows[i], class_="name"), tag("span", words, class_="num")
    return tag("li", name, tag("i", behind, drawn), numbers)


def _heads(kind: str, places: Sequence[tuple[float, str]]) -> Markup:
    spans = [tag("span", text, style=f"left:{place:.2f}%") for place, text in places]
    return tag("p", spans, class_=kind, aria_hidden="true") if places else EMPTY


def _across(start: float, end: float) -> str:
    return f"left:{min(start, end):.2f}%;width:{abs(end - start):.2f}%"


_DRAWN: dict[type[Any], Callable[[Any], Markup]] = {
    Table: _table, Heatmap: _heatmap, Bars: _bars, Tokens: _tokens, Text: _text,
    Lines: svg.lines, Scatter: svg.scatter, Graph: svg.graph,
}  # fmt: skip
