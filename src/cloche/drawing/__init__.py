"""Findings and the panels they show, drawn as text, SVG and HTML. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.drawing.finding import Finding, FindingRecord, Provenance
    from cloche.drawing.html import as_html, figures
    from cloche.drawing.intervals import Interval, student_quantile
    from cloche.drawing.markup import EMPTY, REPORT_POLICY, Child, Markup, document, join, tag
    from cloche.drawing.notebook import STYLE
    from cloche.drawing.panels import (
        Bars,
        Form,
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

__all__ = [
    "EMPTY",
    "REPORT_POLICY",
    "STYLE",
    "Bars",
    "Child",
    "Finding",
    "FindingRecord",
    "Form",
    "Graph",
    "Heatmap",
    "Interval",
    "Lines",
    "Markup",
    "Node",
    "Panel",
    "Passage",
    "Provenance",
    "Scatter",
    "Series",
    "Table",
    "Text",
    "Tokens",
    "as_html",
    "as_table",
    "as_text",
    "document",
    "duration",
    "figures",
    "join",
    "number",
    "percent",
    "short",
    "student_quantile",
    "tag",
    "text_table",
    "visible",
]  # fmt: skip

__getattr__ = lazy(__name__)
