"""`cloche sindy`: finds equations of motion of a table's columns, or of a run's loss."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli.options import AsJson
from cloche.cli.outputs import EquationsFound
from cloche.cli.streams import emit
from cloche.cli.tables import read_table
from cloche.errors import ArgumentInvalid, FieldUnknown, RecordInvalid, SeriesInvalid, SettingConflict
from cloche.files import refuse_existing, writing_file

if TYPE_CHECKING:
    import numpy as np

    from cloche.sparse.sindy import Library, Model

TIMES = ("t", "time", "year", "date", "step")  # names of a column of times, without --time
_UNIT = re.compile(r"\s*[\[(][^\[\]()]*[\])]\s*$")

Terms = Annotated[
    str | None,
    typer.Option(
        metavar="LIBRARY",
        help="Candidate terms instead of --degree and --fourier: 'Sum([Polynomials(3), Fourier(2)])'.",
    ),
]
Derivative = Annotated[str, typer.Option(metavar="FORM", help="How derivatives are estimated: Weak or Strong.")]
Choice = Annotated[
    str, typer.Option(metavar="SELECTOR", help="How terms are chosen: ForwardBackward, STLSQ, SR3, Greedy or Stable.")
]


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of numbers by name, and the name of the time."""

    columns: dict[str, np.ndarray]
    time: str


def sindy(
    source: Annotated[Path, typer.Argument(metavar="FILE|RUN", help="A .csv table, or a run folder (its loss).")],
    time: Annotated[
        str | None, typer.Option(metavar="COL", help="The column of times; by default t, time, year, date or step.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="The states; by default all other columns.")
    ] = None,
    inputs: Annotated[str | None, typer.Option(metavar="A,B", help="Known columns that drive the states.")] = None,
    degree: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Degree of the polynomials; by default 2, or 3 for states that 2 cannot explain."
        ),
    ] = None,
    fourier: Annotated[int, typer.Option(metavar="N", max=1000, help="Frequencies of sines and cosines to add.")] = 0,
    delay: Annotated[
        int, typer.Option(metavar="N", help="Add copies of the states that lag by N samples, as further states.")
    ] = 0,
    library: Terms = None,
    form: Derivative = "Weak",
    selector: Choice = "ForwardBackward",
    simulate: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the motion simulated from the first sample.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find equations of motion in a table or a run's loss.

    Gives x' as a few terms per state, with 95% intervals. Below each equation are its terms, the share of the derivative
    that it explains, the measurement noise, and the residual variance relative to the noise. Notes at the end say what not
    to trust: dependent terms, and equations whose residual is more than noise.
    """
    if simulate is not None:
        refuse_existing(simulate, "choose another --simulate", [source])
    if simulate is not None and inputs is not None and delay:
        raise SettingConflict("--simulate does not work with both --inputs and --delay: leave one of them out.")
    driven, wanted = _split(inputs), _split(columns)
    table = _run(source, time) if source.is_dir() else _columns(source, time, [*wanted, *driven] if wanted else [])
    wanted, driven = ([_named(source, list(table.columns), name) for name in asked] for asked in (wanted, driven))
    states = wanted or [name for name in table.columns if name not in (table.time, *driven)]
    if not states:
        raise FieldUnknown(
            f"{source} has no column besides its time {table.time!r}: give a table with at least one state."
        )
    import numpy as np

    from cloche.part import part_from_line
    from cloche.sparse.sindy import Form, Selector, SINDy

    way = part_from_line(form, Form, "--form"), part_from_line(selector, Selector, "--selector")
    t, x = table.columns[table.time], np.stack([table.columns[name] for name in states], 1)
    u = np.stack([table.columns[name] for name in driven], 1) if driven else None
    t, x, u, names = _lagged(t, x, u, states, delay)
    model = SINDy(_library(library, degree, fourier), *way).fit(x, t, u, names, driven)
    if simulate is not None:
        _write(simulate, table.time, t, model, model.simulate(x[0], t, u))
    if as_json:
        answer: EquationsFound = {
            "source": str(source),
            "samples": len(t),
            "time": table.time,
            "from": float(t[0]),
            "to": float(t[-1]),
            **model.record(),  # type: ignore[typeddict-item]
            "simulated": None if simulate is None else str(simulate),
        }
        emit(answer)
        return
    print(f"{source}: {len(t):,} samples of {', '.join(names)} over {table.time} = {t[0]:g} to {t[-1]:g}\n")
    print(model)
    if simulate is not None:
        print(f"\n{simulate}: the motion simulated from the first sample.")


def _library(text: str | None, degree: int | None, fourier: int) -> Library | None:
    """The candidate terms; None leaves them to SINDy."""
    from cloche.part import part_from_line
    from cloche.sparse.sindy import Fourier, Library, Polynomials

    if text is not None and (degree is not None or fourier):
        raise SettingConflict("--library names all terms: leave out --degree and --fourier.")
    if text is not None:
        found: Library = part_from_line(text, Library, "--library")
        return found
    library = None if degree is None else Polynomials(degree)
    return (library or Polynomials()) + Fourier(fourier) if fourier else library


def _split(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _lagged(
    t: np.ndarray, x: np.ndarray, u: np.ndarray | None, names: list[str], delay: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """Adds each state's value `delay` samples ago: what one column does not show of a motion, its past does."""
    import numpy as np

    if not 0 <= delay < len(t):
        raise SeriesInvalid(f"--delay {delay} does not fit {len(t)} samples: give 0 or a few samples.")
    if not delay:
        return t, x, u, names
    both = np.concatenate([x[delay:], x[:-delay]], 1)
    return t[delay:], both, None if u is None else u[delay:], [*names, *(f"{name}_lag" for name in names)]


def _columns(path: Path, time: str | None, wanted: list[str]) -> Columns:
    """The time and the wanted columns of a table; all its columns if none are named."""
    table = read_table(path)
    if not table.heading:
        began = ", ".join(table.rows[0])[:200]
        raise RecordInvalid(f"{path} begins with {began}: give each column a unique name in the first line.")
    names = [table.names[at] for at in table.numbered]
    wanted = [_named(path, names, name) for name in wanted]
    chosen = list(dict.fromkeys([_time_of(path, names, time), *(wanted or names)]))
    numbers = table.numbers([table.find(name) for name in chosen])
    return Columns(dict(zip(chosen, numbers.T, strict=True)), chosen[0])


def _without_unit(name: str) -> str:
    """`time [s]` and `time (s)` as `time`."""
    return _UNIT.sub("", name).strip()


def _named(path: Path, heading: list[str], asked: str) -> str:
    """The column with this name, with or without its unit. Raises ClocheError if there is none, or several."""
    found = [name for name in heading if name == asked] or [name for name in heading if _without_unit(name) == asked]
    if len(found) != 1:
        raise FieldUnknown(
            f"{path} has {'no' if not found else 'more than one'} column {asked!r}; it has {', '.join(heading)}."
        )
    return found[0]


def _time_of(path: Path, heading: list[str], asked: str | None) -> str:
    asked = None if asked is None else _named(path, heading, asked)
    found = asked or next((name for name in heading if _without_unit(name).lower() in TIMES), None)
    if found is None:
        raise FieldUnknown(
            f"{path} has no column called {', '.join(TIMES)}; it has {', '.join(heading)}: name one with --time."
        )
    return found


def _run(path: Path, time: str | None) -> Columns:
    """The training loss of a run over step (default), tokens or time."""
    import numpy as np

    from cloche.runs import Run
    from cloche.sparse.sindy import MIN_SAMPLES

    name = time or "step"
    if name not in ("step", "tokens", "time"):
        raise ArgumentInvalid(f"A run's loss is measured over step, tokens or time, not {name!r}: choose one of these.")
    records = [r for r in Run.open(path).read_log("metrics") if r.get("loss") is not None and r.get(name) is not None]
    if not records:
        raise RecordInvalid(f"{path} has logged no loss yet: give a run that has trained for a while.")
    if len(records) < MIN_SAMPLES:
        raise RecordInvalid(
            f"{path} has logged its loss {len(records)} times, but {MIN_SAMPLES} or more are needed to find motion in noise: "
            "train longer, or log more often with --set log.every=1."
        )
    return Columns({key: np.array([float(r[key]) for r in records]) for key in (name, "loss")}, name)


def _write(path: Path, time: str, t: np.ndarray, model: Model, motion: np.ndarray) -> None:
    with writing_file(path) as held, held.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([time, *model.states])
        writer.writerows(
            [f"{value:.10g}" for value in row] for row in [[a, *b] for a, b in zip(t, motion, strict=True)]
        )
