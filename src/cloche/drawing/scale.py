"""The colour scale of all heat maps, positions of values on it, and heat maps as small PNG images.

The same scale as in the app (static/scale.js): OKLCH with evenly increasing lightness, so that the order is visible
with colour blindness and in greyscale.
OKLab to sRGB: Björn Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

RGB = tuple[int, int, int]
PLOT_POINTS = 600


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
    """The scale's colour at `t` in 0..1: violet, green, yellow."""
    t = min(1.0, max(0.0, t))
    return oklch(0.27 + 0.64 * t, 0.12 - 0.03 * math.sin(math.pi * t), 300 - 195 * t)


def css(t: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(round(t, 3)))


def ink_on(t: float) -> str:
    """Black or white, whichever has the higher contrast, at least 4.45 on every colour of the scale."""
    return "#000" if t > 0.447 else "#fff"


@dataclass(frozen=True)
class Scale:
    """Maps values between two ends to 0..1: linear, logarithmic (`log`) or by square roots (`root`)."""

    low: float
    high: float
    log: bool = False
    root: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end, clipped."""
        f: Callable[[float], float] = (lambda v: math.log10(max(v, 1e-12))) if self.log else float
        low, width = f(self.low), f(self.high) - f(self.low)
        t = min(1.0, max(0.0, (f(value) - low) / width)) if width > 0 else 0.5
        return math.sqrt(t) if self.root else t


def scale_of(
    values: Iterable[float | None], kind: str = "linear", low: float | None = None, high: float | None = None
) -> Scale:
    """A scale that does not exaggerate: it starts at zero, or is symmetric about zero if there are negative values; a
    logarithmic one runs between powers of ten. `low` and `high` override the ends."""
    log = kind == "log"
    known = [v for v in values if v is not None and (not log or v > 0)] or [0.0 if not log else 0.1, 1.0]
    least, most = min(known), max(known)
    if log:
        bottom, top = 10.0 ** math.floor(math.log10(least)), 10.0 ** math.ceil(math.log10(most))
        ends = (bottom, top if top > bottom else 10 * bottom)
    else:
        reach = max(abs(least), abs(most)) or 1.0
        ends = (-reach if least < 0 else 0.0, reach)
    return Scale(ends[0] if low is None else low, ends[1] if high is None else high, log, kind == "root")


def png(rows: Sequence[Sequence[float | None]], scale: Scale) -> bytes:
    """The rows of a heat map as an image, one pixel per value; missing values are transparent."""
    raw = b"".join(
        b"\0" + b"".join(bytes((*colour(round(scale.share(v), 3)), 255)) if v is not None else b"\0\0\0\0" for v in row)
        for row in rows
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """About `about` round numbers between the ends."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    if rough < sys.float_info.min:  # a power of ten so small is zero
        return [low]
    power = 10 ** math.floor(math.log10(rough))
    size = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [size * i for i in range(math.ceil(low / size), math.floor(high / size) + 1)]


def thinned(points: list[tuple[float, float]], most: int = PLOT_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: the lowest and the highest of each interval are kept, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretch = math.ceil(2 * len(points) / most)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept
