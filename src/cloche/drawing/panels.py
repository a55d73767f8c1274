"""The eight kinds of panel that a finding can have. The terminal, notebooks, the report and the microscope draw them
for every instrument, including third parties'."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from numbers import Real
from typing import Any, Literal, TypeAlias

from cloche.errors import ArgumentInvalid, ClocheError, shown

Form: TypeAlias = Literal["number", "percent", "count", "token"]  # how a value is formatted
Number: TypeAlias = float | None  # None is a missing value
Cell: TypeAlias = float | str | None
MOST_ITEMS = 5_000  # per list read from a file
MOST_VALUES = 200_000  # in all lists of one panel
MOST_CHARACTERS = 2_000
LARGEST = 1e300  # differences of larger numbers are not finite


class _Values:
    """Base of panels and their parts: numbers that cannot be drawn are None, as in the JSON of the panel."""

    title: str

    def __post_init__(self) -> None:
        self._set(**{each.name: _cleaned(getattr(self, each.name)) for each in fields(self)})  # type: ignore[arg-type]

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _agree(self, one: str, first: Sequence[Any], other: str, second: Sequence[Any]) -> None:
        if len(first) != len(second):
            raise ArgumentInvalid(
                f"The panel {shown(self.title)} has {len(first)} {one}, and {other} of length {len(second)}."
            )

    def _same_length(self, places: Sequence[Any], series: Sequence[Series]) -> None:
        for one in series:
            for name in ("values", "low", "high"):
                if name == "values" or getattr(one, name):
                    self._agree("places", places, f"{name} of {shown(one.name)}", getattr(one, name))


def _cleaned(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_cleaned, value))
    drawable = not isinstance(value, Real) or abs(value) <= LARGEST  # type: ignore[operator]  # false of NaN too
    return value if drawable else None


def _picked(values: Sequence[Any], places: Sequence[int]) -> tuple[Any, ...]:
    """The values at some places; none of none."""
    return tuple(values[i] for i in places) if values else ()


@dataclass(frozen=True)
class Series(_Values):
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

    def at(self, places: Sequence[int]) -> Series:
        """The series at some of its places."""
        low, high = _picked(self.low, places), _picked(self.high, places)
        return Series(self.name, _picked(self.values, places), low, high, self.control)


@dataclass(frozen=True)
class Table(_Values):
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
        super().__post_init__()
        for row in self.rows:
            self._agree("columns", self.columns, "a row", row)
        if self.forms:
            self._agree("columns", self.columns, "forms", self.forms)


@dataclass(frozen=True)
class Heatmap(_Values):
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

    @classmethod
    def by_layer(
        cls,
        title: str,
        layers: Sequence[str],
        columns: Sequence[str],
        values: Iterable[Iterable[Number]],
        **options: Any,
    ) -> Heatmap:
        """A row per layer, the first layer at the bottom."""
        rows = tuple(map(tuple, values))
        return cls(title, tuple(layers)[::-1], tuple(columns), rows[::-1], **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("values", "texts", "tips"):
            grid = getattr(self, name)
            if grid or name == "values":
                self._agree("rows", self.rows, name, grid)
                for row in grid:
                    self._agree("columns", self.columns, f"a row of {name}", row)


@dataclass(frozen=True)
class Lines(_Values):
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
        super().__post_init__()
        self._same_length(self.x, self.series)
        keep = [i for i, x in enumerate(self.x) if x is not None]
        marks = tuple(mark for mark in self.marks if None not in mark)
        self._set(x=_picked(self.x, keep), series=tuple(one.at(keep) for one in self.series), marks=marks)


@dataclass(frozen=True)
class Bars(_Values):
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
        super().__post_init__()
        self._same_length(self.rows, self.series)
        self._set(start=self.start or 0.0, bands=tuple(band for band in self.bands if None not in band))


@dataclass(frozen=True)
class Scatter(_Values):
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
        super().__post_init__()
        if len(self.axes) not in (2, 3):
            raise ArgumentInvalid(f"The panel {shown(self.title)} has {len(self.axes)} axes; a Scatter has 2 or 3.")
        for point in self.points:
            self._agree("axes", self.axes, "a point", point)
        for name in ("labels", "values"):
            if getattr(self, name):
                self._agree("points", self.points, name, getattr(self, name))
        keep = [i for i, point in enumerate(self.points) if None not in point]
        self._set(**{name: _picked(getattr(self, name), keep) for name in ("points", "labels", "values")})


@dataclass(frozen=True)
class Passage(_Values):
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


@dataclass(frozen=True)
class Tokens(_Values):
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
        super().__post_init__()
        for passage in self.passages:
            self._agree(f"tokens of {shown(passage.name)}", passage.tokens, "values", passage.values)


@dataclass(frozen=True)
class Node(_Values):
    """A node in a column of its graph (0 is the first), with a value.

    >>> from cloche.drawing import Graph, Node
    >>> [node.name for node in Graph("Circuit", (Node("embed"), Node("logits", 1, 2.0)), ((0, 1, 0.5),)).nodes]
    ['embed', 'logits']
    """

    name: str
    column: int = 0
    value: Number = None


@dataclass(frozen=True)
class Graph(_Values):
    """Nodes in columns, and weighted edges (from, to, weight) between their indices; `labels` say what each edge is.

    >>> from cloche.drawing import Graph, Node, as_table
    >>> nodes = (Node("embed"), Node("L0H1", 1), Node("logits", 2))
    >>> as_table(Graph("Circuit", nodes, ((0, 1, 0.2), (1, 2, -0.7)))).rows  # the strongest edge first
    (('L0H1', 'logits', -0.7), ('embed', 'L0H1', 0.2))
    """

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int, float], ...]
    labels: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels:
            self._agree("edges", self.edges, "labels", self.labels)
        for start, end, _ in self.edges:
            if not (0 <= start < len(self.nodes) and 0 <= end < len(self.nodes)):
                raise ArgumentInvalid(f"The panel {shown(self.title)} has an edge {start} -> {end} but no such node.")
        keep = [i for i, edge in enumerate(self.edges) if None not in edge]
        self._set(edges=_picked(self.edges, keep), labels=_picked(self.labels, keep) if self.labels else ())


@dataclass(frozen=True)
class Text(_Values):
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
    left = [MOST_VALUES, 0]
    try:
        panel = _adapter(kind).validate_python(_cut({key: v for key, v in given.items() if key != "kind"}, left))
        cut = f"Only the first {MOST_ITEMS:,} of {left[1]:,} are here." if left[1] else ""
        return replace(panel, note=f"{panel.note} {cut}".strip()) if cut and kind is not Text else panel
    except (ClocheError, ValueError, RecursionError):
        wrong = f"more than {MOST_VALUES:,} values" if left[0] < 0 else "values of another type or shape"
        return Text("", f"A {kind.__name__} panel cannot be drawn: it has {wrong}.")


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _cut(value: Any, left: list[int]) -> Any:
    """Cuts long lists and texts; raises ValueError beyond `left[0]` values and for non-finite numbers. `left[1]` becomes the
    length of the longest list that was cut."""
    left[0] -= 1
    if left[0] < 0 or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError
    if isinstance(value, dict):
        return {str(key): _cut(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        left[1] = max(left[1], len(value) if len(value) > MOST_ITEMS else 0)
        return [_cut(item, left) for item in value[:MOST_ITEMS]]
    return value[:MOST_CHARACTERS] if isinstance(value, str) else value
