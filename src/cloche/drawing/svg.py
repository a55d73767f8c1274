"""Lines, points and graphs as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cloche.drawing.markup import Markup, join, tag
from cloche.drawing.panels import MOST_ITEMS, Graph, Lines, Node, Scatter, Series
from cloche.drawing.scale import css, scale_of, thinned, ticks
from cloche.drawing.words import FORMS, number

TONES = ("first", "second", "third", "fourth")
GLYPHS = ("●", "■", "▲", "◆")
CORNERS = (  # of a square, a triangle and a diamond, so that series differ in more than colour
    ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    ((0, -1.2), (1.2, 1), (-1.2, 1)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
)
WIDE, TALL, LEFT, RIGHT, TOP, BOTTOM = 640, 270, 60, 26, 12, 44
Form = Callable[[float], str]
Point = tuple[float, float]


def styles(series: Sequence[Series]) -> list[tuple[Series, int, str]]:
    """Each series with its tone and its CSS classes: a control shares the colour of the series before it, faintly."""
    styled: list[tuple[Series, int, str]] = []
    at = -1
    for one in series:
        at += not one.control or at < 0
        tone = at % len(TONES)
        styled.append((one, tone, TONES[tone] + (" faint" if one.control else "")))
    return styled


def lines(panel: Lines) -> Markup:
    named = bool(panel.x) and isinstance(panel.x[0], str)
    places = [float(i if named else x) for i, x in enumerate(panel.x)]  # type: ignore[arg-type]
    form, known = FORMS[panel.form], [v for s in panel.series for v in (*s.values, *s.low, *s.high) if v is not None]
    across = (-0.5, len(places) - 0.5) if named else (min(places, default=0.0), max(places, default=1.0))
    axes = _Axes(across, _spread(known, panel.low, panel.high))
    parts = axes.grid(panel.x_name, panel.y_name, [str(x) for x in panel.x] if named else (), form)
    for place, said in panel.marks:
        parts.append(tag("g", _line("alarm", axes.x(place), TOP, axes.x(place), TALL - BOTTOM), tag("title", said)))
    words = []
    for one, tone, css_class in styles(panel.series):
        points = thinned([(x, v) for x, v in zip(places, one.values, strict=True) if v is not None])
        parts.append(tag("g", _series(one, tone, points, places, axes, form), class_=css_class))
        texts = [form(v) for _, v in points]
        said = ", ".join(texts) if len(texts) <= 12 else f"from {texts[0]} to {texts[-1]}"
        words += [f"{one.name} {said}".strip()] if texts else []
    return _svg(f"{panel.title}: {'; '.join(words)}", parts)


def _series(one: Series, tone: int, points: list[Point], places: list[float], axes: _Axes, form: Form) -> Markup:
    spread = [(x, a, b) for x, a, b in zip(places, one.low, one.high, strict=False) if a is not None and b is not None]
    around = [axes.at(x, b) for x, _, b in spread] + [axes.at(x, a) for x, a, _ in reversed(spread)]
    parts = [tag("path", d=_path(around, closed=True), class_="spread")] if around else []
    parts.append(tag("path", d=_path([axes.at(*point) for point in points]), class_="curve"))
    if len(points) <= 40 and not one.control:
        for x, v in points:
            parts.append(tag("g", _glyph(tone, *axes.at(x, v)), tag("title", f"{one.name} {form(v)}".strip())))
    return join(parts)


def scatter(panel: Scatter) -> Markup:
    points = [flat(point) for point in panel.points]
    axes = _Axes(_spread([x for x, _, _ in points]), _spread([y for _, y, _ in points]))
    scale = scale_of(panel.values)
    plain = len(panel.axes) == 2
    parts = axes.grid(panel.axes[0], panel.axes[1]) if plain else [_label(" · ".join(panel.axes), WIDE / 2, TALL - 4)]
    step = math.ceil(len(points) / MOST_ITEMS) or 1
    for i in sorted(range(0, len(points), step), key=lambda i: points[i][2]):
        value = panel.values[i] if panel.values else None
        fill = None if value is None else css(scale.share(value))
        said = " ".join([*panel.labels[i : i + 1], *map(number, panel.points[i])])
        cx, cy = axes.at(*points[i][:2])
        parts.append(tag("g", tag("circle", tag("title", said), cx=cx, cy=cy, r=3.4, fill=fill), class_="first"))
    left_out = f", one in {step} drawn" if step > 1 else ""
    return _svg(f"{panel.title}: {len(points)} points over {' and '.join(panel.axes)}{left_out}", parts)


def flat(point: Sequence[float], turn: float = 0.6, tilt: float = 0.4) -> tuple[float, float, float]:
    """Orthographic projection of a point of two or three coordinates, turned and tilted by angles in radians: (x, y,
    depth)."""
    if len(point) == 2:
        return point[0], point[1], 0.0
    x, y, z = point
    across, away = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return across, z * math.cos(tilt) + away * math.sin(tilt), z * math.sin(tilt) - away * math.cos(tilt)


def graph(panel: Graph) -> Markup:
    places = _node_places(panel.nodes)
    most = max((abs(weight) for _, _, weight in panel.edges), default=1.0) or 1.0
    fills = scale_of([node.value for node in panel.nodes])
    parts = []
    for i, (a, b, weight) in enumerate(panel.edges):
        share = abs(weight) / most
        label = panel.labels[i] if panel.labels else number(weight)
        said = tag("title", f"{panel.nodes[a].name} → {panel.nodes[b].name}: {label}")
        drawn = tag(
            "path",
            class_="edge",
            d=_arc(places[a], places[b], places),
            stroke_width=f"{0.6 + 4 * share:.3g}",
            stroke_opacity=f"{0.2 + 0.7 * share:.3g}",
        )
        parts.append(tag("g", drawn, said, class_="second" if weight < 0 else "first"))
    for node, (x, y) in zip(panel.nodes, places, strict=True):
        said = tag("title", f"{node.name} {'' if node.value is None else number(node.value)}".strip())
        fill = None if node.value is None else css(fills.share(node.value))
        parts += [tag("g", tag("circle", said, cx=x, cy=y, r=5, fill=fill), class_="node"), _label(node.name, x, y - 9)]
    return _svg(f"{panel.title}: {len(panel.nodes)} nodes, {len(panel.edges)} edges", parts)


def _arc(start: Point, end: Point, nodes: Sequence[Point]) -> str:
    """A straight line; a curve below the nodes that would lie on it, if there are any."""
    (x1, y1), (x2, y2) = start, end
    between = [x for x, y in nodes if min(x1, x2) < x < max(x1, x2) and y1 == y == y2]
    bend = min(90, 34 * len(between))
    return f"M{x1:.1f} {y1:.1f}Q{(x1 + x2) / 2:.1f} {(y1 + y2) / 2 + bend:.1f} {x2:.1f} {y2:.1f}"


def _node_places(nodes: Sequence[Node]) -> list[Point]:
    """Coordinates of the nodes: columns from left to right, the nodes of each evenly spaced."""
    columns: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        columns.setdefault(node.column, []).append(i)
    places = [(0.0, 0.0)] * len(nodes)
    for at, (_, members) in enumerate(sorted(columns.items())):
        for row, i in enumerate(members):
            places[i] = (WIDE * (at + 0.5) / len(columns), 24 + (TALL - 40) * (row + 0.5) / len(members))
    return places


# ---- axes and marks


class _Axes:
    """Coordinates of values in the drawing, and the grid with its labels."""

    def __init__(self, across: Point, up: Point) -> None:
        self.across, self.up = across, up

    def x(self, value: float) -> float:
        return _on_page(LEFT + (WIDE - LEFT - RIGHT) * _share(value, *self.across))

    def y(self, value: float) -> float:
        return _on_page(TALL - BOTTOM - (TALL - TOP - BOTTOM) * _share(value, *self.up))

    def at(self, x: float, y: float) -> Point:
        return self.x(x), self.y(y)

    def grid(self, x_name: str, y_name: str, names: Sequence[str] = (), form: Form = number) -> list[Markup]:
        parts = []
        for tick in ticks(*self.up):
            parts.append(_line("grid", LEFT, self.y(tick), WIDE - RIGHT, self.y(tick)))
            parts.append(_label(form(tick), LEFT - 7, self.y(tick) + 4, "end"))
        step = max(1, len(names) // 12)
        shown: list[tuple[float, str]] = [(i, name) for i, name in enumerate(names) if i % step == 0]
        for place, name in shown or [(tick, f"{tick:,.6g}") for tick in ticks(*self.across, 6)]:
            parts.append(_label(name, self.x(place), TALL - BOTTOM + 19))
        above = [_label(y_name, LEFT, TOP - 2, "start")] if y_name else []
        return [*parts, *above, _label(x_name, (LEFT + WIDE - RIGHT) / 2, TALL - 4)]


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / ((high - low) or 1.0)


def _on_page(place: float) -> float:
    """A place on the page or well beside it: drawings hold no numbers of hundreds of digits."""
    return min(1e5, max(-1e5, place))


def _spread(values: Sequence[float], low: float | None = None, high: float | None = None) -> Point:
    least, most = min(values, default=0.0), max(values, default=1.0)
    pad = (most - least) * 0.05 or abs(most) * 0.05 or 1.0
    return (least - pad if low is None else low), (most + pad if high is None else high)


def _svg(words: str, parts: Sequence[Markup]) -> Markup:
    return tag("svg", parts, viewBox=f"0 0 {WIDE} {TALL}", role="img", aria_label=words)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float, **more: float) -> Markup:
    return tag("line", class_=kind, x1=x1, x2=x2, y1=y1, y2=y2, **more)


def _label(text: str, x: float, y: float, anchor: str = "middle") -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor)


def _path(points: Sequence[Point], closed: bool = False) -> str:
    corners = "L".join(f"{x:.1f} {y:.1f}" for x, y in points) or "0 0"
    return f"M{corners}{'Z' if closed else ''}"


def _glyph(tone: int, x: float, y: float, r: float = 4.0) -> Markup:
    if tone == 0:
        return tag("circle", cx=x, cy=y, r=r)
    return tag("path", d=_path([(x + r * a, y + r * b) for a, b in CORNERS[tone - 1]], closed=True))
