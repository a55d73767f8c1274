"""`cloche look`: applies one instrument to a run or a model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli.errors import FAILED, one_line
from cloche.cli.options import AsJson, Checkpoint, Model
from cloche.cli.outputs import FindingsRecord, InstrumentRecord, InstrumentsListed, OptionRecord, SavedFinding
from cloche.cli.streams import emit
from cloche.errors import InstrumentOption, WriteRefused

if TYPE_CHECKING:
    from cloche.drawing import Finding
    from cloche.runs import Run

Instrument = Annotated[
    str, typer.Argument(metavar="[INSTRUMENT]", help="An instrument, such as logit-lens; without one, lists them all.")
]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", help="Options of the instrument; some may be repeated.")
]


def look(
    model: Model,
    instrument: Instrument = "",
    options: Options = None,
    checkpoint: Checkpoint = "last",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the finding to this file: a page if it ends in .html, else JSON."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look inside a model with an instrument.

    The finding is saved in the run, where the microscope shows it; that of a model outside a run is only printed. Required
    options that are not given are taken from the run: held-out text, a prompt from it, its only dictionary.
    """
    if not instrument:
        list_instruments(as_json)
        return
    import cloche
    from cloche.files import refuse_existing
    from cloche.interp import Materials, fill_in, find_instrument, read_options
    from cloche.runs import Run

    if out is not None:
        refuse_existing(out, "choose another --out")
    name, function = find_instrument(instrument)
    glass = cloche.load(model, checkpoint)
    run = Run.open(model) if (Path(model) / "run.json").is_file() else None
    materials = Materials(glass, run)
    values = read_options(name, function, pairs(options), materials)
    finding = function(glass, **fill_in(name, function, values, materials))
    found = finding if isinstance(finding, list) else [finding]
    if out is not None:
        write_findings(found, out)
    keep(found, run, as_json)


def keep(findings: Iterable[Finding], run: Run | None, as_json: bool) -> None:
    """Saves each finding in the run and prints it."""
    records = list[SavedFinding]()
    with saving(run, as_json) as save:
        for finding in findings:
            path = save(finding)
            records.append(recorded(finding, path))
            if not as_json:
                print(finding.text() if path is None else f"{finding.text()}\n\n{path}")
        if as_json:
            answer: FindingsRecord = {"findings": records}
            emit(answer)


def keep_one(finding: Finding, run: Run | None, as_json: bool) -> None:
    """`keep` for a command that answers with a single finding."""
    with saving(run, as_json) as save:
        path = save(finding)
        if as_json:
            emit(recorded(finding, path))
        else:
            print(finding.text() if path is None else f"{finding.text()}\n\n{path}")


@contextmanager
def saving(run: Run | None, as_json: bool) -> Iterator[Callable[[Finding], Path | None]]:
    """Yields a function that saves a finding in the run and gives its path. Where that cannot be, as on a full disk or in
    somebody else's run, the finding is printed all the same, and the sentence that says why ends the command."""
    refused: list[WriteRefused] = []

    def save(finding: Finding) -> Path | None:
        if run is None or refused:
            return None
        try:
            return finding.save(run)
        except WriteRefused as error:
            refused.append(error)
            return None

    yield save
    if refused and as_json:  # one object is on stdout already
        print(one_line(f"Not saved: {refused[0]}"), file=sys.stderr)
        raise typer.Exit(FAILED)
    if refused:
        raise WriteRefused(f"Not saved: {refused[0]}")


def write_findings(found: list[Finding], out: Path) -> None:
    """Writes findings to a new file: as one page if its name ends in .html, else as JSON."""
    from cloche.files import to_json, write_atomically

    if out.suffix == ".html":
        if len(found) > 1:
            raise InstrumentOption(f"{out} would have to hold {len(found)} findings; give one prompt, or a .json file.")
        write_atomically(out, found[0].page().encode())
        return
    records = [each.record() for each in found]
    write_atomically(out, to_json(records[0] if len(records) == 1 else records, indent=1))


def pairs(options: list[str] | None) -> dict[str, list[str]]:
    """["prompt=a", "prompt=b", "top=5"] as {"prompt": ["a", "b"], "top": ["5"]}."""
    found: dict[str, list[str]] = {}
    for text in options or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InstrumentOption(
                f"{text!r} is not an option of an instrument: write it as key=value, such as prompt='def '."
            )
        found.setdefault(key.strip(), []).append(value)
    return found


def recorded(finding: Finding, path: Path | None) -> SavedFinding:
    """A finding as JSON, with the path of its file."""
    return {**finding.record(), "path": None if path is None else str(path)}


def list_instruments(as_json: bool) -> None:
    """Prints every instrument with its options and the first sentence of its docstring."""
    from cloche.interp import instruments, options_of

    found: list[InstrumentRecord] = []
    in_run: set[tuple[str, str]] = set()
    for name, function in instruments().items():
        in_run |= {(name, o.name) for o in options_of(function).values() if o.in_run}
        options: list[OptionRecord] = [
            {"name": o.name, "type": o.typed, "default": o.default} for o in options_of(function).values() if o.typed
        ]
        found.append({"name": name, "about": about(function.__doc__), "options": options})
    if as_json:
        answer: InstrumentsListed = {"instruments": found}
        emit(answer)
        return
    for each in found:
        print(f"{each['name']}\n  {each['about']}")
        for option in each["options"]:
            none = option["default"] in ("None", "")
            needed = "needed, or from the run" if (each["name"], option["name"]) in in_run else "needed"
            said = needed if option["default"] is None else f"by default {option['default']}"
            print(f"    {option['name']}={option['type']}{'' if none else f' ({said})'}")


def about(docstring: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<! al)\.(?= [A-Z`])", text)[0].rstrip(".") + "." if text else ""
