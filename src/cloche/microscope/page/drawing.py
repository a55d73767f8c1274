"""Drawing for a page without scripts: curves as SVG, heat-maps as a few hundred bytes of PNG, bars and lit tokens as HTML.

The colour scale is the app's (static/scale.js), computed the same way: OKLCH with evenly rising lightness, so that the
order survives colour blindness and grey printers.
OKLab to sRGB: Björn Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cloche.microscope.page.markup import Markup, tag

RGB = tuple[int, int, int]
Format = Callable[[float], str]
PLOT_POINTS = 600
VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\t": "→", "\r": "␍"})


def oklch(lightness: float, chroma: float, degrees: float) -> RGB:
    """An OKLCH colour as 8-bit sRGB, clipped to the gamut."""
    a, b = chroma * math.cos(math.radians(degrees)), chroma * math.sin(math.radians(degrees))
    l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
    linear = (
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    )
    red, green, blue = (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055 for x in linear)
    return _byte(red), _byte(green), _byte(blue)


def _byte(share: float) -> int:
    return math.floor(255 * min(1.0, max(0.0, share)) + 0.5)


@lru_cache(maxsize=1024)
def colour(t: float) -> RGB:
    """The scale's colour at `t` in 0..1: violet over green to yellow."""
    t = min(1.0, max(0.0, t))
    return oklch(0.27 + 0.64 * t, 0.12 - 0.03 * math.sin(math.pi * t), 300 - 195 * t)


def css(t: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(round(t, 3)))


def ink_on(t: float) -> str:
    """Black or white, whichever stands out: a contrast of at least 4.5 on every colour of the scale."""
    return "#000" if t > 0.447 else "#fff"


def visible(token: str) -> str:
    """A token with what cannot be seen made visible."""
    return token.translate(VISIBLE) or "∅"


@dataclass(frozen=True)
class Scale:
    """Where values stand between two ends, on a linear or a logarithmic scale, or on one of square roots (`root`)."""

    low: float
    high: float
    log: bool = False
    root: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end, clipped."""
        f: Format | Callable[[float], float] = (lambda v: math.log10(max(v, 1e-12))) if self.log else (lambda v: v)
        width = float(f(self.high)) - float(f(self.low))
        t = min(1.0, max(0.0, (float(f(value)) - float(f(self.low))) / width)) if width > 0 else 0.5
        return math.sqrt(t) if self.root else t


def scale_of(
    values: Sequence[float | None], log: bool = False, low: float | None = None, high: float | None = None
) -> Scale:
    """A scale from the smallest to the largest value (above zero for logarithms), either end replaced where given."""
    known = [v for v in values if v is not None and (not log or v > 0)] or [0.1 if log else 0.0, 1.0]
    return Scale(min(known) if low is None else low, max(known) if high is None else high, log)


def png(rows: Sequence[Sequence[float | None]], scale: Scale) -> bytes:
    """The rows of a heat-map as an image, one pixel a value; a missing value is transparent."""
    raw = b"".join(
        b"\0" + b"".join(bytes((*colour(round(scale.share(v), 3)), 255)) if v is not None else b"\0\0\0\0" for v in row)
        for row in rows
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def heat_map(
    rows: Sequence[Sequence[float | None]], labels: Sequence[str], scale: Scale, alt: str, tall: int = 22
) -> Markup:
    """A heat-map as an HTML figure body: the row labels and the enlarged image."""
    uri = base64.b64encode(png(rows, scale)).decode()
    height = f"height:{tall * len(rows)}px"
    names = tag("div", [tag("span", label) for label in labels], class_="rows", style=height)
    return tag("div", names, tag("img", alt=alt, style=height, src=f"data:image/png;base64,{uri}"), class_="map")


def legend(scale: Scale, fmt: Format) -> Markup:
    """The colour scale with its ends in words, and its middle where that is not half way."""

    def bar(start: float, end: float) -> Markup:
        stops = ", ".join(css(start + (end - start) * i / 15) for i in range(16))
        return tag("i", style=f"background-image:linear-gradient(90deg,{stops})")

    quarter = fmt(scale.low + (scale.high - scale.low) / 4)
    between = [bar(0, 0.5), tag("span", quarter), bar(0.5, 1)] if scale.root else bar(0, 1)
    return tag("span", tag("span", fmt(scale.low)), between, tag("span", fmt(scale.high)), class_="legend")


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within the ends, about as many as asked."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    size = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [size * i for i in range(math.ceil(low / size), math.floor(high / size) + 1)]


def thinned(points: list[tuple[float, float]], most: int = PLOT_POINTS) -> list[tuple[float, float]]:
    """At most `most` points; of each stretch the lowest and the highest stay, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretch = math.ceil(2 * len(points) / most)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


@dataclass(frozen=True)
class Plot:
    """One line chart. `points` are (step, value); `marks` are steps where something went wrong."""

    title: str
    unit: str
    points: list[tuple[float, float]]
    fmt: Format
    marks: tuple[float, ...] = ()
    dots: bool = False
    width: int = 560
    height: int = 210

    def svg(self, x_low: float, x_high: float) -> Markup:
        """The chart over the given steps, with its last value beside the title."""
        left, right, top, bottom = 48, 10, 8, 22
        values = [y for _, y in self.points]
        low, high = min(values), max(values)
        pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        low, high = low - pad, high + pad
        wide, tall = self.width - left - right, self.height - top - bottom

        def x(step: float) -> str:
            return f"{left + wide * (step - x_low) / ((x_high - x_low) or 1):.1f}"

        def y(value: float) -> float:
            return top + tall * (high - value) / (high - low)

        def line(kind: str, x1: str, x2: str, y1: float, y2: float) -> Markup:
            return tag("line", class_=kind, x1=x1, x2=x2, y1=f"{y1:.1f}", y2=f"{y2:.1f}")

        parts = []
        for tick in ticks(low, high):
            parts.append(line("grid", str(left), str(self.width - right), y(tick), y(tick)))
            parts.append(tag("text", f"{tick:.6g}", x=left - 7, y=f"{y(tick) + 4:.1f}", text_anchor="end"))
        for tick in ticks(x_low, x_high, 6):
            parts.append(tag("text", f"{tick:,.0f}", x=x(tick), y=self.height - 5, text_anchor="middle"))
        parts += [line("alarm", x(mark), x(mark), top, top + tall) for mark in self.marks]
        shown = thinned(self.points)
        parts.append(tag("polyline", points=" ".join(f"{x(s)},{y(v):.1f}" for s, v in shown)))
        if self.dots:
            for s, v in shown:
                title = tag("title", f"{self.fmt(v)} at {s:,.0f}")
                parts.append(tag("circle", title, cx=x(s), cy=f"{y(v):.1f}", r=2.6))
        readout = tag("span", tag("b", self.fmt(values[-1])), f" {self.unit}", class_="readout")
        words = f"{self.title}: from {self.fmt(values[0])} to {self.fmt(values[-1])} over steps {x_low:,.0f} to {x_high:,.0f}."
        drawn = tag("svg", parts, viewBox=f"0 0 {self.width} {self.height}", role="img", aria_label=words)
        return tag("figure", tag("figcaption", tag("h3", self.title), readout), drawn, class_="chart")


def bars(pairs: Sequence[Sequence[Any]], fmt: Format, tone: str = "") -> Markup:
    """Ranked tokens with bars, the largest full width."""
    most = max((abs(value) for _, value in pairs), default=0.0) or 1.0

    def item(token: str, value: float) -> Markup:
        bar = tag("i", tag("b", style=f"width:{100 * abs(value) / most:.1f}%"))
        return tag("li", tag("code", visible(token)), bar, tag("span", fmt(value)))

    return tag("ol", [item(token, value) for token, value in pairs], class_=f"bars {tone}")


def lit_tokens(tokens: Sequence[str], acts: Sequence[float], most: float) -> Markup:
    """Tokens lit by how strongly a feature answered."""
    spans = []
    for token, act in zip(tokens, acts, strict=False):
        strength = min(1.0, max(0.0, act / most)) if most > 0 else 0.0
        shown = token.replace("\n", "↵")
        if strength > 0.02:
            spans.append(tag("span", shown, class_="lit", style=f"--lit:{strength:.2f}", title=f"{act:.3g}"))
        else:
            spans.append(tag("span", shown))
    return tag("span", spans, class_="tokens")
