"""Findings of instruments: figures with their null, panels to draw, the data behind them, and files in the run
folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from cloche.drawing import panels as kinds
from cloche.drawing.html import as_html, figures
from cloche.drawing.markup import EMPTY, Markup, document, join, tag
from cloche.drawing.notebook import mime_bundle, page, style
from cloche.drawing.panels import Panel, Table
from cloche.drawing.text import as_table, as_text
from cloche.drawing.words import in_terminal, number, visible
from cloche.errors import FileUnreadable, InstrumentUnknown
from cloche.files import to_json
from cloche.runs import Run, data_frame

_NEEDED = ("instrument", "id", "created", "summary", "checkpoint", "data")


class FindingRecord(TypedDict):
    """findings/*/*.json: a finding of an instrument. The first of `figures` is the headline; `null` has the same
    figures measured where there is nothing to find; `panels` are drawn; `data` depends on the instrument.

    >>> from cloche.drawing import Finding, FindingRecord, Provenance
    >>> record: FindingRecord = Finding(Provenance("greeting"), "It says hello.", {"hellos": 3.0}).record()
    >>> record["figures"], record["null"]
    ({'hellos': 3.0}, None)
    """

    instrument: str
    id: str
    created: str
    checkpoint: str
    plan: str
    seed: int
    summary: str
    figures: dict[str, float | None]
    null: dict[str, float | None] | None
    panels: list[dict[str, Any]]
    data: dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Where a finding comes from. `plan` is the hash of the sites and edits of the pass, empty without one. The `id`
    is computed from the content, so the same finding computed again overwrites its file.

    >>> from cloche.drawing import Provenance
    >>> Provenance("logit-lens", "step-000100", created="2026-01-01T00:00:00+00:00").checkpoint
    'step-000100'
    """

    instrument: str
    checkpoint: str = ""
    plan: str = ""
    seed: int = 0
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    id: str = ""


@dataclass(frozen=True, eq=False)
class Finding:
    """A result of one instrument at one checkpoint.

    `summary` is one sentence. `figures` are named numbers, the first of which is the headline, and `null` has the
    same numbers measured where there is nothing to find (shuffled labels, a random model), or is None. `panels` are
    drawn, `data` is JSON (docs/architecture.md), and `arrays` holds what is too large for it; tensors are stored as
    arrays.

    >>> from cloche.drawing import Finding, Provenance
    >>> found = Finding(Provenance("greeting", "step-000100"), "It says hello.", {"hellos": 3.0}, null={"hellos": 0.0})
    >>> print(found.text())
    greeting of step-000100: It says hello.
            value  null
    ------  -----  ----
    hellos      3     0
    """

    provenance: Provenance
    summary: str
    figures: Mapping[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)
    null: Mapping[str, float] | None = None
    panels: Sequence[Panel] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", {name: _array(value) for name, value in self.arrays.items()})
        object.__setattr__(self, "panels", tuple(self.panels))
        if not self.provenance.id:
            object.__setattr__(self, "provenance", replace(self.provenance, id=self._id()))

    def _id(self) -> str:
        """The checkpoint's name and the first 10 hex digits of the sha256 of instrument, plan, data and seed (unless 0)."""
        about = self.provenance
        seed = [about.seed] if about.seed else []  # another seed may change the figures and nothing in the data
        content = to_json([about.instrument, about.plan, self.data or dict(self.figures), *seed])
        place = "".join(c if c.isalnum() or c in "-_." else "-" for c in about.checkpoint)
        return f"{place or 'model'}-{hashlib.sha256(content).hexdigest()[:10]}"

    @property
    def instrument(self) -> str:
        return self.provenance.instrument

    @property
    def id(self) -> str:
        return self.provenance.id

    @property
    def created(self) -> str:
        return self.provenance.created

    @property
    def checkpoint(self) -> str:
        return self.provenance.checkpoint

    @property
    def plan(self) -> str:
        return self.provenance.plan

    @property
    def notes(self) -> list[str]:
        """Warnings about the forward passes behind it, one sentence each, such as a text longer than the model's
        context."""
        notes = self.data.get("notes") or []
        return [str(note)[: kinds.MOST_CHARACTERS] for note in (notes if isinstance(notes, list) else [notes])]

    # ---- in the run folder

    def record(self) -> FindingRecord:
        """The content of the .json file."""
        about = self.provenance
        return {
            "instrument": about.instrument,
            "id": about.id,
            "created": about.created,
            "checkpoint": about.checkpoint,
            "plan": about.plan,
            "seed": about.seed,
            "summary": self.summary,
            "figures": dict(self.figures),
            "null": None if self.null is None else dict(self.null),
            "panels": kinds.to_json(self.panels),
            "data": self.data,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> Finding:
        """From untrusted JSON: fields of a wrong type are left out. A finding of an older run, without panels, shows
        the plain figures of its data."""
        words = {key: str(record.get(key) or "")[: kinds.MOST_CHARACTERS] for key in (*_NEEDED[:-1], "plan")}
        summary, seed = words.pop("summary"), record.get("seed")
        about = Provenance(**words, seed=seed if isinstance(seed, int) else 0)
        null = None if record.get("null") is None else _numbers(record["null"])
        data = record["data"] if isinstance(record.get("data"), dict) else {}
        drawn = kinds.from_json(record.get("panels"))
        if not drawn and not record.get("figures"):
            drawn = tuple(_plain(data))
        return cls(about, summary, _numbers(record.get("figures")), data, arrays or {}, null, drawn)

    def save(self, run: Run | str | Path) -> Path:
        """Writes findings/<instrument>/<id>.safetensors and .json into a run; returns the path of the latter."""
        from safetensors.numpy import save  # here and below: viewing findings needs no numpy

        run = run if isinstance(run, Run) else Run.open(run)
        place = f"findings/{self.instrument}/{self.id}"
        run.write_bytes(f"{place}.safetensors", save(dict(self.arrays)))
        return run.write_json(f"{place}.json", self.record())  # last: a reader that sees it finds its arrays

    @classmethod
    def load(cls, path: str | Path) -> Finding:
        """From the .json that `save` wrote, its .safetensors beside it."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(path)
        try:
            record = json.loads(path.read_bytes())
            arrays = load_file(path.with_suffix(".safetensors"))
        except (OSError, ValueError, TypeError, LookupError, RecursionError, SafetensorError) as error:
            raise FileUnreadable(f"The finding {path} cannot be read ({error}); run the instrument again.") from error
        missing = [key for key in _NEEDED if not isinstance(record, dict) or key not in record]
        if missing:
            raise InstrumentUnknown(
                f"{path} is not a finding: it lacks {', '.join(missing)}; run the instrument again."
            )
        return cls.of_record(record, arrays)

    # ---- display

    def frame(self, title: str = "") -> Any:
        """A pandas DataFrame of the panel called `title`; without a title, of the first table, else of the figures
        and their null. Raises ClocheError if pandas is missing or there is no such panel."""
        titled = [panel for panel in self.panels if panel.title == title] if title else []
        if title and not titled:
            known = ", ".join(repr(panel.title) for panel in self.panels) or "none"
            raise InstrumentUnknown(f"This {self.instrument} finding has no panel {title!r}; it has {known}.")
        table = as_table(next(iter(titled), None) or self._table)
        return data_frame([dict(zip(table.columns, row, strict=True)) for row in table.rows], table.columns)

    @property
    def _table(self) -> Table:
        first = next((panel for panel in self.panels if isinstance(panel, Table)), next(iter(self.panels), None))
        return self._figures() if first is None else as_table(first)

    def _figures(self) -> Table:
        if self.null is None:
            return Table("", ("", "value"), tuple((_named(name), value) for name, value in self.figures.items()))
        rows = tuple((_named(name), value, self.null.get(name)) for name, value in self.figures.items())
        return Table("", ("", "value", "null"), rows)

    def table(self) -> str:
        """The first table, else the figures, as columns of text."""
        return as_text(replace(self._table, title="", note=""))

    def text(self) -> str:
        """The whole finding for the terminal: the summary, the figures with their null, every panel."""
        head = f"{self}\n{as_text(self._figures())}" if self.figures else str(self)
        return "\n\n".join([head, *map(as_text, self.panels)])

    def html(self) -> Markup:
        """The whole finding as HTML: the figures with their null, the notes, every panel."""
        null = self.null or {}
        beside = {name: tag("small", f" null {number(value)}") for name, value in null.items()}
        named = figures((_named(name), join(number(value), beside.get(name))) for name, value in self.figures.items())
        notes = [tag("p", note, class_="note") for note in self.notes]
        return tag(
            "div",
            named if self.figures else EMPTY,
            notes,
            tag("div", map(as_html, self.panels), class_="drawings"),
            class_="finding",
        )

    def page(self) -> str:
        """The finding as one HTML page, with its style, without scripts or requests."""
        head = tag("h1", f"{_named(self.instrument.replace('-', '_'))} of {self.checkpoint or 'a model'}")
        body = tag("div", head, tag("p", self.summary), self.html(), class_="cloche")
        return document(f"{self.instrument} · cloche", style(), body)

    def _repr_html_(self) -> str:
        return page(str(self), self.html())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """For notebooks: static HTML, and with anywidget installed also the panels drawn by the microscope's modules."""
        return mime_bundle(self.record(), {"text/plain": str(self), "text/html": self._repr_html_()})

    def __str__(self) -> str:
        notes = "".join(f" Note: {note}" for note in self.notes)
        return in_terminal(f"{self.instrument} of {self.checkpoint or 'a model'}: {self.summary}{notes}")

    def __repr__(self) -> str:
        return f"<{self}>"


def _array(value: Any) -> Any:
    """A tensor on any device as an array; bfloat16, which numpy lacks, becomes float32."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.element_size() == 2 else value
    return np.ascontiguousarray(value)


def _named(name: str) -> str:
    return visible(name.replace("_", " ")).replace("·", " ")


def _numbers(value: Any) -> dict[str, float]:
    """The finite numbers of a JSON object; long names are cut."""
    given = value.items() if isinstance(value, dict) else ()
    known = [(str(k)[:200], v) for k, v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    return {name: float(v) for name, v in known[:100] if abs(v) < 1e300}


def _plain(data: Mapping[str, Any]) -> list[Panel]:
    """A table of the texts and numbers in an older finding's data."""
    texts = {str(k)[:200]: v[: kinds.MOST_CHARACTERS] for k, v in data.items() if isinstance(v, str)}
    rows = tuple((texts | _numbers(data)).items())
    return [Table("", ("what", "value"), rows)] if rows else []
