"""The eight kinds of panel that a finding can have. The terminal, notebooks, the report and the microscope draw them
for every instrument, including third parties'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from cloche.errors import ArgumentInvalid, ClocheError, shown

Form: TypeAlias = Literal["number", "percent", "count", "token"]  # how a value is formatted
Number: TypeAlias = float | None  # None is a missing value
Cell: TypeAlias = float | str | None
MOST_ITEMS = 5_000  # per list read from a file
MOST_VALUES = 200_000  # in all lists of one panel
MOST_CHARACTERS = 2_000
LARGEST = (
    1e300  # what is beyond it, or not finite, counts as missing: differences of such numbers are not finite either
)


@dataclass(frozen=True)
class Series:
    """A named value per column or row, with its spread from `low` to `high` if known; a control is drawn faintly.

    >>> from cloche.drawing import Lines, Series, as_text
    >>> series = (Series("probe", (0.7, 0.9)), Series("shuffled labels", (0.5, 0.5), control=True))
    >>> print(as_text(Lines("Accuracy", ("layer 0", "layer 1"), series)))
    Accuracy
             probe  shuffled labels
    -------  -----  ---------------
    layer 0    0.7              0.5
    layer 1    0.9              0.5
    """

    name: str
    values: tuple[Number, ...]
    low: tuple[Number, ...] = ()
    high: tuple[Number, ...] = ()
    control: bool = False

    def __post_init__(self) -> None:
        _drop(self, "values", "low", "high")


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers; `forms` has the number format per column.

    >>> from cloche.drawing import Table
    >>> Table("Scores", ("layer", "AUROC"), (("resid_post[0]", 0.71),)).rows[0][1]
    0.71
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    forms: tuple[Form, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            _agree(self, "columns", self.columns, "a row", row)
        if self.forms:
            _agree(self, "columns", self.columns, "forms", self.forms)


@dataclass(frozen=True)
class Heatmap:
    """A value per row and column, the first row on top. The colour scale starts at zero (a logarithmic one at a power
    of ten) and is symmetric about zero if there are negative values, unless `low` and `high` are given. `texts` are
    written in the cells, `tips` are tooltips.

    >>> from cloche.drawing import Heatmap, as_text
    >>> print(as_text(Heatmap("Scores", ("layer 1", "layer 0"), ("a", "b"), ((0.9, 0.1), (0.2, None)))))
    Scores
               a    b
    -------  ---  ---
    layer 1  0.9  0.1
    layer 0  0.2
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[Number, ...], ...]
    texts: tuple[tuple[str, ...], ...] = ()
    tips: tuple[tuple[str, ...], ...] = ()
    form: Form = "number"
    scale: Literal["linear", "log", "root"] = "linear"
    low: Number = None
    high: Number = None
    note: str = ""

    def __post_init__(self) -> None:
        _drop(self, "values", "low", "high")
        for name in ("values", "texts", "tips"):
            grid = getattr(self, name)
            if grid or name == "values":
                _agree(self, "rows", self.rows, name, grid)
                for row in grid:
                    _agree(self, "columns", self.columns, f"a row of {name}", row)


@dataclass(frozen=True)
class Lines:
    """Series over `x`, numbers or names. `marks` are events: (position on x, description).

    >>> from cloche.drawing import Lines, Series, as_table
    >>> as_table(Lines("Loss", (100.0, 200.0), (Series("loss", (3.2, 2.9)),), x_name="step")).rows
    ((100.0, 3.2), (200.0, 2.9))
    """

    title: str
    x: tuple[float, ...] | tuple[str, ...]
    series: tuple[Series, ...]
    x_name: str = ""
    y_name: str = ""
    form: Form = "number"
    low: Number = None
    high: Number = None
    marks: tuple[tuple[float, str], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _drop(self, "low", "high")
        _same_length(self, self.x, self.series)
        places: Sequence[Any] = self.x
        keep = [i for i, x in enumerate(places) if isinstance(x, str) or _drawable(x)]
        if len(keep) < len(self.x):
            object.__setattr__(self, "x", tuple(places[i] for i in keep))
            object.__setattr__(self, "series", tuple(_at(one, keep) for one in self.series))
        object.__setattr__(self, "marks", tuple(mark for mark in self.marks if _drawable(mark[0])))


@dataclass(frozen=True)
class Bars:
    """A bar per row from `start`; for a series with a spread or on a logarithmic axis, a dot with its spread. `bands`
    are named ranges (name, low, high) in the background.

    >>> from cloche.drawing import Bars, Series, as_text
    >>> print(as_text(Bars("Active units", ("layer 0", "layer 1"), (Series("share", (0.02, 0.05)),), form="percent")))
    Active units
             share
    -------  -----
    layer 0   2.0%
    layer 1   5.0%
    """

    title: str
    rows: tuple[str, ...]
    series: tuple[Series, ...]
    form: Form = "number"
    log: bool = False
    start: float = 0.0
    bands: tuple[tuple[str, float, float], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _same_length(self, self.rows, self.series)
        object.__setattr__(self, "start", self.start if _drawable(self.start) else 0.0)
        object.__setattr__(
            self, "bands", tuple(band for band in self.bands if _drawable(band[1]) and _drawable(band[2]))
        )


@dataclass(frozen=True)
class Scatter:
    """Points of two or three coordinates, coloured by `values`; `labels` are tooltips.

    >>> from cloche.drawing import Scatter, as_table
    >>> as_table(Scatter("Atoms", ((0.0, 1.0), (1.0, 0.5)), ("PC 1", "PC 2"), ("first", "second"))).rows
    (('first', 0.0, 1.0, None), ('second', 1.0, 0.5, None))
    """

    title: str
    points: tuple[tuple[float, ...], ...]
    axes: tuple[str, ...]
    labels: tuple[str, ...] = ()
    values: tuple[Number, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.axes) not in (2, 3):
            raise ArgumentInvalid(f"The panel {shown(self.title)} has {len(self.axes)} axes; a Scatter has 2 or 3.")
        for point in self.points:
            _agree(self, "axes", self.axes, "a point", point)
        for name in ("labels", "values"):
            if getattr(self, name):
                _agree(self, "points", self.points, name, getattr(self, name))
        _drop(self, "values")
        keep = [i for i, point in enumerate(self.points) if all(map(_drawable, point))]
        if len(keep) < len(self.points):
            for name in ("points", "labels", "values"):
                given = getattr(self, name)
                object.__setattr__(self, name, tuple(given[i] for i in keep) if given else given)


@dataclass(frozen=True)
class Passage:
    """Tokens with a value each; `name` is written before them and `note` after.

    >>> from cloche.drawing import Passage, Tokens, as_text
    >>> print(as_text(Tokens("Feature 7", (Passage("1", ("def", " f", "(x)"), (0.0, 3.0, 0.5), "at most 3"),))))
    Feature 7
       tokens
    -  ----------  ---------
    1  def[·f](x)  at most 3
    """

    name: str
    tokens: tuple[str, ...]
    values: tuple[Number, ...]
    note: str = ""

    def __post_init__(self) -> None:
        _drop(self, "values")


@dataclass(frozen=True)
class Tokens:
    """Passages of text whose tokens are highlighted by their values, from zero to `high` (default: the largest
    value).

    >>> from cloche.drawing import Passage, Tokens, as_table
    >>> as_table(Tokens("Surprise", (Passage("text", ("the", " cat"), (0.2, 4.1)),))).rows
    (('text', 'the[·cat]', ''),)
    """

    title: str
    passages: tuple[Passage, ...]
    high: Number = None
    note: str = ""

    def __post_init__(self) -> None:
        _drop(self, "high")
        for passage in self.passages:
            _agree(self, f"tokens of {shown(passage.name)}", passage.tokens, "values", passage.values)


@dataclass(frozen=True)
class Node:
    """A node in a column of its graph (0 is the first), with a value.

    >>> from cloche.drawing import Graph, Node
    >>> [node.name for node in Graph("Circuit", (Node("embed"), Node("logits", 1, 2.0)), ((0, 1, 0.5),)).nodes]
    ['embed', 'logits']
    """

    name: str
    column: int = 0
    value: Number = None

    def __post_init__(self) -> None:
        _drop(self, "value")


@dataclass(frozen=True)
class Graph:
    """Nodes in columns, and weighted edges (from, to, weight) between their indices.

    >>> from cloche.drawing import Graph, Node, as_table
    >>> nodes = (Node("embed"), Node("L0H1", 1), Node("logits", 2))
    >>> as_table(Graph("Circuit", nodes, ((0, 1, 0.2), (1, 2, -0.7)))).rows  # the strongest edge first
    (('L0H1', 'logits', -0.7), ('embed', 'L0H1', 0.2))
    """

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int, float], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for start, end, _ in self.edges:
            if not (0 <= start < len(self.nodes) and 0 <= end < len(self.nodes)):
                raise ArgumentInvalid(f"The panel {shown(self.title)} has an edge {start} -> {end} but no such node.")
        object.__setattr__(self, "edges", tuple(edge for edge in self.edges if _drawable(edge[2])))


@dataclass(frozen=True)
class Text:
    """Plain text; line breaks are kept.

    >>> from cloche.drawing import Text, as_text
    >>> print(as_text(Text("Prompt", "def read(")))
    Prompt
    def read(
    """

    title: str
    text: str


Panel: TypeAlias = Table | Heatmap | Lines | Bars | Scatter | Tokens | Graph | Text
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Table, Heatmap, Lines, Bars, Scatter, Tokens, Graph, Text)
}


def to_json(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Each panel's fields and its "kind", for `files.to_json` (which writes non-finite numbers as null)."""
    for panel in panels:
        if KINDS.get(type(panel).__name__) is not type(panel):
            raise ArgumentInvalid(f"A {type(panel).__name__} is not a panel: give one of {', '.join(KINDS)}.")
    return [{"kind": type(panel).__name__, **asdict(panel)} for panel in panels]


def from_json(value: Any) -> tuple[Panel, ...]:
    """The panels of a finding's untrusted JSON; an invalid one is replaced by a sentence."""
    given = value if isinstance(value, list) else []
    return tuple(_panel(each) for each in given[:100])


def _panel(given: Any) -> Panel:
    kind: Any = KINDS.get(str(given.get("kind"))) if isinstance(given, dict) else None
    if kind is None:
        return Text("", f"A panel cannot be drawn: its kind is none of {', '.join(KINDS)}.")
    try:
        return _adapter(kind).validate_python(
            _cut({key: v for key, v in given.items() if key != "kind"}, [MOST_VALUES])
        )
    except (ClocheError, ValueError, RecursionError):
        return Text("", f"A {kind.__name__} panel cannot be drawn: it has values of another type or shape.")


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _cut(value: Any, left: list[int]) -> Any:
    """Cuts long lists and texts; raises ValueError beyond `left` values and for non-finite numbers."""
    left[0] -= 1
    if left[0] < 0 or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError
    if isinstance(value, dict):
        return {str(key): _cut(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item, left) for item in value[:MOST_ITEMS]]
    return value[:MOST_CHARACTERS] if isinstance(value, str) else value


def _drawable(value: float | None) -> bool:
    return value is not None and abs(value) <= LARGEST  # not of NaN


def _drop(panel: Any, *names: str) -> None:
    """None in place of the numbers in these fields that cannot be drawn, as in the JSON of the panel."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(map(cleaned, value))
        return value if _drawable(value) else None

    for name in names:
        object.__setattr__(panel, name, cleaned(getattr(panel, name)))


def _at(one: Series, places: Sequence[int]) -> Series:
    def kept(values: tuple[Number, ...]) -> tuple[Number, ...]:
        return tuple(values[i] for i in places) if values else ()

    return replace(one, values=kept(one.values), low=kept(one.low), high=kept(one.high))


def _agree(panel: Any, one: str, first: Sequence[Any], other: str, second: Sequence[Any]) -> None:
    if len(first) != len(second):
        raise ArgumentInvalid(
            f"The panel {shown(panel.title)} has {len(first)} {one}, and {other} of length {len(second)}."
        )


def _same_length(panel: Any, places: Sequence[Any], series: Sequence[Series]) -> None:
    for one in series:
        for name in ("values", "low", "high"):
            if name == "values" or getattr(one, name):
                _agree(panel, "places", places, f"{name} of {shown(one.name)}", getattr(one, name))
