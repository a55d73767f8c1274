"""Findings and the panels they show, drawn as text, SVG and HTML. Imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloche.drawing.finding import Finding, Provenance
    from cloche.drawing.html import as_html
    from cloche.drawing.panels import (
        Bars,
        Graph,
        Heatmap,
        Lines,
        Node,
        Panel,
        Passage,
        Scatter,
        Series,
        Table,
        Text,
        Tokens,
    )
    from cloche.drawing.text import as_table, as_text, text_table
    from cloche.drawing.words import duration, number, percent, short, visible

_HOMES = {
    "finding": ("Finding", "Provenance"),
    "html": ("as_html",),
    "panels": ("Bars", "Graph", "Heatmap", "Lines", "Node", "Panel", "Passage", "Scatter", "Series", "Table", "Text", "Tokens"),
    "text": ("as_table", "as_text", "text_table"),
    "words": ("duration", "number", "percent", "short", "visible"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Bars", "Finding", "Graph", "Heatmap", "Lines", "Node", "Panel", "Passage", "Provenance", "Scatter", "Series", "Table",
    "Text", "Tokens", "as_html", "as_table", "as_text", "duration", "number", "percent", "short", "text_table", "visible",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cloche.drawing' has no attribute {name!r}")
    return getattr(import_module(f"cloche.drawing.{_HOME[name]}"), name)
