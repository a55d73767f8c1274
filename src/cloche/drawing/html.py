"""Panels as HTML and SVG without scripts, for notebooks and the report; the microscope draws the same CSS classes
with its own modules (static/panels)."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any

from cloche.drawing.markup import EMPTY, Markup, join, tag
from cloche.drawing.panels import Bars, Graph, Heatmap, Lines, Node, Panel, Scatter, Series, Table, Text, Tokens
from cloche.drawing.scale import Scale, css, ink_on, png, scale_of, thinned, ticks
from cloche.drawing.words import FORMS, visible, written

TONES = ("first", "second", "third", "fourth")
GLYPHS = ("●", "■", "▲", "◆")
MOST_ROWS, CELLS_AS_TEXT, PASSAGES = 200, 6_000, 12
WIDE, TALL, LEFT, RIGHT, TOP, BOTTOM = 640, 270, 60, 26, 12, 44
DECADES = 4  # shown of a logarithmic axis of shares
Place = Callable[[float], float]


def as_html(panel: Panel) -> Markup:
    """One panel as a figure with its title and its note.

    >>> from cloche.drawing import Text, as_html
    >>> as_html(Text("", "1 < 2"))
    Markup('<figure class="drawn text-panel"><p class="text">1 &lt; 2</p></figure>')
    """
    drawn = _DRAWN[type(panel)](panel)
    title = tag("h3", panel.title) if panel.title else EMPTY
    note = "" if isinstance(panel, Text) else panel.note
    head = tag("figcaption", title, _key(panel)) if title or _key(panel) else EMPTY
    kind = type(panel).__name__.lower()
    return tag("figure", head, drawn, tag("p", note, class_="note") if note else EMPTY, class_=f"drawn {kind}-panel")


def _key(panel: Panel) -> Markup:
    """The names of the series with their marks, or the colour scale with its ends."""
    if isinstance(panel, Heatmap):
        return legend(scale_of(sum(panel.values, ()), panel.scale, panel.low, panel.high), FORMS[panel.form])
    if isinstance(panel, Scatter) and panel.values:
        return legend(scale_of(panel.values), FORMS["number"])
    series = panel.series if isinstance(panel, Lines | Bars) else ()
    if len(series) < 2:
        return EMPTY
    names = [
        tag("span", tag("i", "┄" if one.control else GLYPHS[tone]), one.name, class_=f"{TONES[tone]}{_faint(one)}")
        for tone, one in zip(_tones(series), series, strict=True)
    ]
    return tag("p", names, class_="series")


def _tones(series: Sequence[Series]) -> list[int]:
    """A colour per series; a control shares the colour of the series before it."""
    tones, at = [], -1
    for one in series:
        at += not one.control or at < 0
        tones.append(at % len(TONES))
    return tones


def _faint(series: Series) -> str:
    return " faint" if series.control else ""


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


# ---- tables and texts


def _table(panel: Table) -> Markup:
    forms = panel.forms or ("number",) * len(panel.columns)
    first = tag("th", panel.columns[0], scope="col") if panel.columns and panel.columns[0] else tag("td")
    head = tag("tr", first, [tag("th", name, scope="col") for name in panel.columns[1:]])

    def cell(value: Any, form: str) -> Markup:
        shown = written(value, form)
        inner = tag("code", shown) if form == "token" and shown else shown
        return tag("td", inner, class_="words" if isinstance(value, str) else None)

    body = [
        tag("tr", tag("th", written(row[0], forms[0]), scope="row"), map(cell, row[1:], forms[1:]))
        for row in panel.rows[:MOST_ROWS]
        if row
    ]
    more = len(panel.rows) - MOST_ROWS
    left_out = tag("p", f"… {more:,} more rows", class_="note") if more > 0 else EMPTY
    return join(_scrolling(tag("table", tag("thead", head), tag("tbody", body), class_="data"), panel.title), left_out)


def _text(panel: Text) -> Markup:
    return tag("p", panel.text, class_="text")


def _tokens(panel: Tokens) -> Markup:
    values = [value or 0.0 for each in panel.passages for value in each.values]
    high = panel.high or max(values, default=0.0)
    items = []
    for each in panel.passages[:PASSAGES]:
        lit = [_lit(token, value or 0.0, high) for token, value in zip(each.tokens, each.values, strict=True)]
        name = tag("b", each.name) if each.name else EMPTY
        items.append(tag("li", name, tag("span", lit, class_="tokens"), tag("small", each.note)))
    more = len(panel.passages) - PASSAGES
    left_out = tag("p", f"… {more:,} more", class_="note") if more > 0 else EMPTY
    return join(tag("ul", items, class_="passages"), left_out)


def _lit(token: str, value: float, high: float) -> Markup:
    strength = min(1.0, max(0.0, value / high)) if high > 0 else 0.0
    shown = token.replace("\n", "↵")
    if strength <= 0.02:
        return tag("span", shown)
    return tag("span", shown, class_="lit", style=f"--lit:{strength:.2f}", title=f"{value:.3g}")


# ---- heat maps


def _heatmap(panel: Heatmap) -> Markup:
    scale = scale_of(sum(panel.values, ()), panel.scale, panel.low, panel.high)
    if panel.texts and len(panel.rows) * len(panel.columns) <= CELLS_AS_TEXT:
        return _cells(panel, scale)
    tall = max(4, min(22, 240 // max(1, len(panel.rows))))
    height = f"height:{tall * len(panel.rows)}px"
    form = FORMS[panel.form]
    said = (
        f"{panel.title}: {len(panel.rows)} rows, {len(panel.columns)} columns, {form(scale.low)} to {form(scale.high)}"
    )
    names = tag("div", [tag("span", name) for name in panel.rows], class_="rows", style=height)
    uri = base64.b64encode(png(panel.values, scale)).decode() if panel.rows and panel.columns else ""
    drawn = tag("img", alt=said, style=height, src=f"data:image/png;base64,{uri}")
    ends = tag("p", tag("span", panel.columns[0]), tag("span", panel.columns[-1]), class_="span") if uri else EMPTY
    return join(tag("div", names, drawn, class_="map"), ends)


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
    form = FORMS[panel.form]
    low, high = min([panel.start, *values]), max([panel.start, *values, *(band[2] for band in panel.bands)])
    at = _log_place(high) if panel.log else lambda value: 100 * (value - low) / ((high - low) or 1.0)
    marks: list[tuple[float, str]] = []
    if panel.log:
        top = 10.0 ** math.ceil(math.log10(high)) if high > 0 else 1.0
        marks = [(at(top / 10**i), form(top / 10**i)) for i in range(DECADES, -1, -1)]
    places = [(_inside(at(start)), _inside(at(end)), name) for name, start, end in panel.bands]
    behind = [tag("b", class_="band", style=_across(start, end)) for start, end, _ in places]
    above = [((start + end) / 2, name) for start, end, name in places]
    tones = _tones(panel.series)
    items = [_bar_row(panel, i, tones, at, behind) for i in range(min(len(panel.rows), MOST_ROWS))]
    return tag("div", _heads("bands", above), tag("ul", items), _heads("ticks", marks), class_="measures")


def _bar_row(panel: Bars, i: int, tones: Sequence[int], at: Place, behind: list[Markup]) -> Markup:
    drawn, words, form = [], [], FORMS[panel.form]
    for tone, one in zip(tones, panel.series, strict=True):
        value, css_class = one.values[i], f"{TONES[tone]}{_faint(one)}"
        words.append(tag("b", form(value), class_=css_class))
        if value is None:
            continue
        if panel.log or one.low:
            reach = [v for v in (one.low[i] if one.low else None, one.high[i] if one.high else None) if v is not None]
            if len(reach) == 2:
                drawn.append(tag("b", class_=f"reach {css_class}", style=_across(*(_inside(at(v)) for v in reach))))
            drawn.append(tag("b", class_=f"dot {css_class}", style=f"left:{_inside(at(value)):.2f}%"))
        else:
            drawn.append(
                tag("b", class_=f"bar {css_class}", style=_across(_inside(at(panel.start)), _inside(at(value))))
            )
    return tag(
        "li", tag("span", panel.rows[i], class_="name"), tag("i", behind, drawn), tag("span", words, class_="num")
    )


def _heads(kind: str, places: Sequence[tuple[float, str]]) -> Markup:
    spans = [tag("span", text, style=f"left:{place:.2f}%") for place, text in places]
    return tag("p", spans, class_=kind, aria_hidden="true") if places else EMPTY


def _log_place(high: float) -> Place:
    top = math.ceil(math.log10(high)) if high > 0 else 0
    return lambda value: 100 * (1 + (math.log10(value) - top) / DECADES) if value > 0 else 0.0


def _inside(place: float) -> float:
    return min(100.0, max(0.0, place))


def _across(start: float, end: float) -> str:
    return f"left:{min(start, end):.2f}%;width:{abs(end - start):.2f}%"


# ---- lines, points and graphs


def _svg(words: str, parts: Sequence[Markup]) -> Markup:
    return tag("svg", parts, viewBox=f"0 0 {WIDE} {TALL}", role="img", aria_label=words)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float, **more: Any) -> Markup:
    ends = {name: f"{v:.1f}" for name, v in (("x1", x1), ("x2", x2), ("y1", y1), ("y2", y2))}
    return tag("line", class_=kind, **ends, **more)


def _label(text: object, x: float, y: float, anchor: str = "middle") -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)  # type: ignore[arg-type]


def _spread(values: Sequence[float], low: float | None = None, high: float | None = None) -> tuple[float, float]:
    least, most = min(values, default=0.0), max(values, default=1.0)
    pad = (most - least) * 0.05 or abs(most) * 0.05 or 1.0
    return (least - pad if low is None else low), (most + pad if high is None else high)


def _on_page(place: float) -> float:
    """A place on the page or well beside it: drawings hold no numbers of hundreds of digits."""
    return min(1e5, max(-1e5, place))


class _Axes:
    """Coordinates of values in the drawing, and the grid with its labels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.low, self.wide = x[0], (x[1] - x[0]) or 1.0
        self.bottom, self.tall = y[0], (y[1] - y[0]) or 1.0
        self.ends = x, y

    def x(self, value: float) -> float:
        return _on_page(LEFT + (WIDE - LEFT - RIGHT) * ((value - self.low) / self.wide))

    def y(self, value: float) -> float:
        return _on_page(TALL - BOTTOM - (TALL - TOP - BOTTOM) * ((value - self.bottom) / self.tall))

    def grid(
        self, x_name: str, y_name: str, names: Sequence[str] = (), form: Callable[[float], str] = FORMS["number"]
    ) -> list[Markup]:
        parts = []
        for tick in ticks(*self.ends[1]):
            parts.append(_line("grid", LEFT, self.y(tick), WIDE - RIGHT, self.y(tick)))
            parts.append(_label(form(tick), LEFT - 7, self.y(tick) + 4, "end"))
        step = max(1, len(names) // 12)
        shown: list[tuple[float, str]] = [(i, name) for i, name in enumerate(names) if i % step == 0]
        for place, name in shown or [(tick, f"{tick:,.6g}") for tick in ticks(*self.ends[0], 6)]:
            parts.append(_label(name, self.x(place), TALL - BOTTOM + 19))
        above = [_label(y_name, LEFT, TOP - 2, "start")] if y_name else []
        return [*parts, *above, _label(x_name, (LEFT + WIDE - RIGHT) / 2, TALL - 4)]


def _lines(panel: Lines) -> Markup:
    named = bool(panel.x) and isinstance(panel.x[0], str)
    places = [float(i if named else x) for i, x in enumerate(panel.x)]  # type: ignore[arg-type]
    form, known = FORMS[panel.form], [v for s in panel.series for v in (*s.values, *s.low, *s.high) if v is not None]
    across = (-0.5, len(places) - 0.5) if named else (min(places, default=0.0), max(places, default=1.0))
    axes = _Axes(across, _spread(known, panel.low, panel.high))
    parts = axes.grid(panel.x_name, panel.y_name, [str(x) for x in panel.x] if named else (), form)
    for place, said in panel.marks:
        parts.append(tag("g", _line("alarm", axes.x(place), TOP, axes.x(place), TALL - BOTTOM), tag("title", said)))
    words = []
    for tone, one in zip(_tones(panel.series), panel.series, strict=True):
        points = thinned([(x, v) for x, v in zip(places, one.values, strict=True) if v is not None])
        parts.append(tag("g", _series(one, tone, points, places, axes, form), class_=f"{TONES[tone]}{_faint(one)}"))
        if points:
            texts = [form(v) for _, v in points]
            words.append(
                f"{one.name} {', '.join(texts) if len(texts) <= 12 else f'from {texts[0]} to {texts[-1]}'}".strip()
            )
    return _svg(f"{panel.title}: {'; '.join(words)}", parts)


def _series(
    one: Series, tone: int, points: list[tuple[float, float]], places: list[float], axes: _Axes, form: Any
) -> Markup:
    spread = [(x, a, b) for x, a, b in zip(places, one.low, one.high, strict=False) if a is not None and b is not None]
    around = [(x, b) for x, _, b in spread] + [(x, a) for x, a, _ in reversed(spread)]
    parts = [tag("path", d=_path(around, axes) + "Z", class_="spread")] if around else []
    parts.append(tag("path", d=_path(points, axes), class_="curve"))
    if len(points) <= 40 and not one.control:
        for x, v in points:
            said = tag("title", f"{one.name} {form(v)}".strip())
            parts.append(tag("g", _glyph(tone, axes.x(x), axes.y(v)), said))
    return join(parts)


def _path(points: Sequence[tuple[float, float]], axes: _Axes) -> str:
    return "M" + "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in points) if points else "M0 0"


def _glyph(kind: int, x: float, y: float, r: float = 4.0) -> Markup:
    """A circle, a square, a triangle or a diamond, so that series differ in more than colour."""
    if kind == 0:
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=r)
    square, up, diamond = (
        ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        ((0, -1.2), (1.2, 1), (-1.2, 1)),
        ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    )
    corners = (square, up, diamond)[kind - 1]
    return tag("path", d="M" + "L".join(f"{x + r * a:.1f} {y + r * b:.1f}" for a, b in corners) + "Z")


def flat(point: Sequence[float], turn: float = 0.6, tilt: float = 0.4) -> tuple[float, float, float]:
    """Orthographic projection of a point of two or three coordinates, turned and tilted by angles in radians: (x, y,
    depth)."""
    if len(point) == 2:
        return point[0], point[1], 0.0
    x, y, z = point
    across, away = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return across, z * math.cos(tilt) + away * math.sin(tilt), z * math.sin(tilt) - away * math.cos(tilt)


def _scatter(panel: Scatter) -> Markup:
    points = [flat(point) for point in panel.points]
    axes = _Axes(_spread([x for x, _, _ in points]), _spread([y for _, y, _ in points]))
    scale = scale_of(panel.values)
    plain = len(panel.axes) == 2
    parts = axes.grid(panel.axes[0], panel.axes[1]) if plain else [_label(" · ".join(panel.axes), WIDE / 2, TALL - 4)]
    for i in sorted(range(len(points)), key=lambda i: points[i][2]):
        value = panel.values[i] if panel.values else None
        fill = None if value is None else css(scale.share(value))
        said = " ".join([*panel.labels[i : i + 1], *(FORMS["number"](v) for v in panel.points[i])])
        cx, cy = f"{axes.x(points[i][0]):.1f}", f"{axes.y(points[i][1]):.1f}"
        dot = tag("circle", tag("title", said), cx=cx, cy=cy, r=3.4, fill=fill)
        parts.append(tag("g", dot, class_="first"))
    return _svg(f"{panel.title}: {len(points)} points over {' and '.join(panel.axes)}", parts)


def _graph(panel: Graph) -> Markup:
    places = _node_places(panel.nodes)
    most = max((abs(weight) for _, _, weight in panel.edges), default=1.0) or 1.0
    parts = []
    for a, b, weight in panel.edges:
        share, ends = abs(weight) / most, (*places[a], *places[b])
        said = tag("title", f"{panel.nodes[a].name} → {panel.nodes[b].name}: {FORMS['number'](weight)}")
        drawn = _line("edge", *ends, stroke_width=f"{0.6 + 4 * share:.1f}", stroke_opacity=f"{0.2 + 0.7 * share:.2f}")
        parts.append(tag("g", drawn, said, class_="second" if weight < 0 else "first"))
    for node, (x, y) in zip(panel.nodes, places, strict=True):
        said = tag("title", f"{node.name} {'' if node.value is None else FORMS['number'](node.value)}".strip())
        parts += [
            tag("g", tag("circle", said, cx=f"{x:.1f}", cy=f"{y:.1f}", r=5), class_="node"),
            _label(node.name, x, y - 9),
        ]
    return _svg(f"{panel.title}: {len(panel.nodes)} nodes, {len(panel.edges)} edges", parts)


def _node_places(nodes: Sequence[Node]) -> list[tuple[float, float]]:
    """Coordinates of the nodes: columns from left to right, the nodes of each evenly spaced."""
    columns: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        columns.setdefault(node.column, []).append(i)
    places = [(0.0, 0.0)] * len(nodes)
    for at, (_, members) in enumerate(sorted(columns.items())):
        for row, i in enumerate(members):
            places[i] = (WIDE * (at + 0.5) / len(columns), 24 + (TALL - 40) * (row + 0.5) / len(members))
    return places


_DRAWN: dict[type[Any], Callable[[Any], Markup]] = {
    Table: _table, Heatmap: _heatmap, Lines: _lines, Bars: _bars, Scatter: _scatter, Tokens: _tokens,
    Graph: _graph, Text: _text,
}  # fmt: skip
