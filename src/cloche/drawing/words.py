"""Numbers and tokens formatted for people."""

from __future__ import annotations

import math
from collections.abc import Callable

_SIGNS = {"\n": "↵", "\t": "→", "\r": "␍"}


def visible(token: str, space: str = "·") -> str:
    """A token with spaces and control characters made visible, a byte outside any character as <0xE2>, an empty token
    as ∅. For running text, give `space=" "`.

    >>> from cloche.drawing import visible
    >>> visible(" a\\n")
    '·a↵'
    """
    signs = {" ": space, **_SIGNS}
    return "".join(signs.get(c) or (c if c.isprintable() else _escaped(c)) for c in token) or "∅"


def in_terminal(text: str) -> str:
    """A text whose control characters a terminal would carry out, but for line ends, written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"<0x{ord(character) - 0xDC00:02X}>"
    return character.encode("unicode_escape").decode("ascii")


def number(value: float | None) -> str:
    """Four significant digits, six from 1,000 on; a dash for None.

    >>> from cloche.drawing import number
    >>> [number(v) for v in (None, 0.25, 1234.5, 2.5e-7)]
    ['–', '0.25', '1,234.5', '2.5e-07']
    """
    if value is None or value != value:
        return "–"
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        return f"{value:.3g}"
    return f"{float(f'{value:.6g}' if size >= 1000 else f'{value:.4g}'):,.6f}".rstrip("0").rstrip(".")


def percent(value: float | None) -> str:
    """A fraction as a percentage.

    >>> from cloche.drawing import percent
    >>> [percent(v) for v in (0.125, 0.0005, 0.00001)]
    ['12.5%', '0.05%', '<0.01%']
    """
    if value is None or value != value:
        return "–"
    if 0 < abs(value) < 1e-4:
        return "<0.01%"
    return f"{value:.2%}" if 0 < abs(value) < 1e-3 else f"{value:.1%}"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return number(value) if value is None or not math.isfinite(value) else f"{round(value):,}"


def short(value: float | None) -> str:
    """A large number as three digits and a letter.

    >>> from cloche.drawing import short
    >>> short(49_152)
    '49.2k'
    """
    if value is None or value != value:
        return "–"
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours if any.

    >>> from cloche.drawing import duration
    >>> duration(95), duration(3_700)
    ('1:35', '1:01:40')
    """
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"


FORMS: dict[str, Callable[[float | None], str]] = {
    "number": number,
    "percent": percent,
    "count": count,
    "token": number,
}


def written(value: float | str | None, form: str = "number") -> str:
    """A cell of a table; a missing value is empty."""
    if isinstance(value, str):
        return visible(value) if form == "token" else value
    return "" if value is None else FORMS[form](value)
