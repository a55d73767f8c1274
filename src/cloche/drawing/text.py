"""Panels for the terminal: every kind as the table of what it shows."""

from __future__ import annotations

from collections.abc import Container, Sequence

from cloche.drawing.panels import Bars, Cell, Form, Graph, Heatmap, Lines, Panel, Passage, Scatter, Table, Text
from cloche.drawing.words import visible, written

MOST_ROWS = 60
BEFORE, AFTER = 6, 3  # tokens around the strongest of a passage


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Columns of text under a rule; those in `left` are aligned to the left, the others to the right.

    >>> from cloche.drawing import text_table
    >>> print(text_table(["site", "L0"], [["z", "8"], ["embed", "16"]]))
    site   L0
    -----  --
    z       8
    embed  16
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (columns, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)


def as_table(panel: Panel) -> Table:
    """What a panel shows, as a table."""
    if isinstance(panel, Table):
        return panel
    if isinstance(panel, Text):
        return Table(panel.title, ("",), tuple((line,) for line in panel.text.splitlines()))
    if isinstance(panel, Graph):
        strongest = sorted(panel.edges, key=lambda edge: -abs(edge[2]))
        named = tuple((panel.nodes[a].name, panel.nodes[b].name, weight) for a, b, weight in strongest)
        return Table(panel.title, ("from", "to", "weight"), named, note=panel.note)
    if isinstance(panel, Heatmap):
        grid: Sequence[Sequence[Cell]] = panel.texts or panel.values
        form: Form = "token" if panel.texts else panel.form
        forms: tuple[Form, ...] = ("number", *[form] * len(panel.columns))
        body = tuple((name, *row) for name, row in zip(panel.rows, grid, strict=True))
        return Table(panel.title, ("", *map(visible, panel.columns)), body, forms, panel.note)
    if isinstance(panel, Lines | Bars):
        x_name, places = (panel.x_name, panel.x) if isinstance(panel, Lines) else ("", panel.rows)
        body = tuple(zip(places, *(one.values for one in panel.series), strict=True))
        forms = ("number", *[panel.form] * len(panel.series))
        return Table(panel.title, (x_name, *(one.name for one in panel.series)), body, forms, panel.note)
    if isinstance(panel, Scatter):
        names = panel.labels or tuple(map(str, range(len(panel.points))))
        values = panel.values or (None,) * len(panel.points)
        placed = tuple((name, *at, value) for name, at, value in zip(names, panel.points, values, strict=True))
        return Table(panel.title, ("", *panel.axes, "value"), placed, note=panel.note)
    passages = tuple((each.name, snippet(each), each.note) for each in panel.passages)
    return Table(panel.title, ("", "tokens", ""), passages, note=panel.note)


def snippet(passage: Passage) -> str:
    """The tokens around the strongest one, which stands in brackets."""
    if not passage.tokens:
        return ""
    peak = max(range(len(passage.tokens)), key=lambda i: passage.values[i] or 0.0)
    words = [visible(token) for token in passage.tokens]
    return f"{''.join(words[max(0, peak - BEFORE) : peak])}[{words[peak]}]{''.join(words[peak + 1 : peak + 1 + AFTER])}"


def as_text(panel: Panel, most: int = MOST_ROWS) -> str:
    """The panel's title, table and note; of a long table the first `most` rows."""
    if isinstance(panel, Text):
        return "\n".join(part for part in (panel.title, panel.text) if part)
    table = as_table(panel)
    forms = table.forms or ("number",) * len(table.columns)
    rows = [[written(cell, form) for cell, form in zip(row, forms, strict=True)] for row in table.rows[:most]]
    left = [i for i in range(len(table.columns)) if any(isinstance(row[i], str) for row in table.rows)]
    more = [f"… {len(table.rows) - most:,} more"] if len(table.rows) > most else []
    title = [table.title] if table.title else []
    return "\n".join([*title, text_table(table.columns, rows, left), *more, *([table.note] if table.note else [])])
