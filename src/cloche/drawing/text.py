"""Panels for the terminal: every kind is printed as a table."""

from __future__ import annotations

from collections.abc import Container, Sequence

from cloche.drawing.panels import Bars, Cell, Form, Graph, Heatmap, Lines, Panel, Passage, Scatter, Table, Text
from cloche.drawing.words import in_terminal, visible, written

MOST_ROWS = 60
BEFORE, AFTER = 6, 3  # tokens shown around the largest value of a passage


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Columns of text below a header; columns in `left` are left-aligned, the others right-aligned.

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
    """The content of a panel as a table.

    >>> from cloche.drawing import Bars, Series, as_table
    >>> table = as_table(Bars("Scores", ("layer 0",), (Series("probe", (0.7,)),)))
    >>> table.columns, table.rows
    (('', 'probe'), (('layer 0', 0.7),))
    """
    if isinstance(panel, Table):
        return panel
    if isinstance(panel, Text):
        return Table(panel.title, ("",), tuple((line,) for line in panel.text.splitlines()))
    if isinstance(panel, Graph):
        order = sorted(range(len(panel.edges)), key=lambda i: -abs(panel.edges[i][2]))
        said = [(panel.labels[i],) if panel.labels else () for i in order]
        named = [
            (panel.nodes[a].name, panel.nodes[b].name, weight) for a, b, weight in map(panel.edges.__getitem__, order)
        ]
        rows = tuple((*ends, *label) for ends, label in zip(named, said, strict=True))
        return Table(panel.title, ("from", "to", "weight", *(["label"] if panel.labels else [])), rows, note=panel.note)
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
    """The tokens around the one with the largest value, which is in brackets."""
    if not passage.tokens:
        return ""
    peak = max(range(len(passage.tokens)), key=lambda i: passage.values[i] or 0.0)
    words = [visible(token) for token in passage.tokens]
    return f"{''.join(words[max(0, peak - BEFORE) : peak])}[{words[peak]}]{''.join(words[peak + 1 : peak + 1 + AFTER])}"


def as_text(panel: Panel, most: int = MOST_ROWS) -> str:
    """The panel's title, the first `most` rows of its table, and its note.

    >>> from cloche.drawing import Table, as_text
    >>> print(as_text(Table("Heads", ("head", "score"), (("L0H1", 0.75), ("L1H0", 0.5), ("L1H1", 0.25))), most=2))
    Heads
    head  score
    ----  -----
    L0H1   0.75
    L1H0    0.5
    … 1 more
    """
    if isinstance(panel, Text):
        return in_terminal("\n".join(part for part in (panel.title, panel.text) if part))
    table = as_table(panel)
    forms = table.forms or ("number",) * len(table.columns)
    columns = [_on_one_line(name) for name in table.columns]
    rows = [
        [_on_one_line(written(cell, form)) for cell, form in zip(row, forms, strict=True)] for row in table.rows[:most]
    ]
    left = [i for i in range(len(table.columns)) if any(isinstance(row[i], str) for row in table.rows)]
    more = [f"… {len(table.rows) - most:,} more"] if len(table.rows) > most else []
    title = [table.title] if table.title else []
    lines = [*title, text_table(columns, rows, left), *more, *([table.note] if table.note else [])]
    return in_terminal("\n".join(lines))


def _on_one_line(cell: str) -> str:
    return in_terminal(cell).replace("\n", "↵")
