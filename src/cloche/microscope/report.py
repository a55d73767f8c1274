"""The offline report: one page about a run, drawn from its folder, without scripts or requests."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cloche.drawing import EMPTY, STYLE, Child, Markup, as_html, document, duration, figures, join, short, tag
from cloche.errors import ClocheError
from cloche.files import write_atomically
from cloche.microscope.folder.history import Columns
from cloche.microscope.folder.logbook import Metrics
from cloche.microscope.folder.reading import RunFiles, number, words
from cloche.microscope.folder.records import ALARMS, STATES
from cloche.microscope.library import Library
from cloche.microscope.page import chapters
from cloche.runs import Run

MOST_OF_ONE = 3  # findings of one instrument in a report, about different prompts, dictionaries or tasks
STATIC = Path(__file__).parent / "static"
# Raised while drawing values of a wrong type or shape.
UNFIT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
Record = dict[str, Any]


def write_report(run_path: str | Path, out: Path | None = None) -> Path:
    """Writes report.html into a run folder, or the report to the file `out`, and returns its path. Parts that the run
    does not have yet are left out; a part whose files are damaged becomes a sentence.

    Raises ClocheError if there is no run.

    >>> from cloche.microscope import write_report
    >>> from cloche.runs import Run
    >>> path = write_report(Run.create("first", recipe="").path)
    >>> path.name, "<h1>first</h1>" in path.read_text()
    ('report.html', True)
    """
    library = Library(run_path)
    if out is not None:
        write_atomically(out, page(library).encode())
        return out
    library.files.file("report.html")  # raises, before the page is drawn, if something else has this name
    text = page(library)
    return Run(run_path).write_bytes("report.html", text.encode())


def page(library: Library) -> str:
    """The whole report as HTML."""
    files, book, name = library.files, library.logbook(), library.home.name
    metrics, about = book.columns(), library.about()
    shown = book.samples()
    heads = library.findings()
    body = [
        chapter("title", lambda: title(files, about, metrics)),
        chapter("curves", lambda: curves(metrics, book.events())),
        chapter("samples", lambda: chapters.samples(shown["records"])),
        chapter("health records", lambda: chapters.health(book.health()["records"])),
        *(chapter(f"{each} finding", partial(_found, library, *each)) for each in _reported(heads["findings"])),
        damage([*about["damaged"], *book.damaged(), *heads["damaged"]]),
        what_next(files, about, shown["records"], book.events()),
    ]
    style = "".join(path.read_text() for path in (STATIC / "style.css", STYLE, STATIC / "report.css"))
    return document(f"{name} · cloche", style, body)


def _reported(heads: list[Record]) -> list[tuple[str, str]]:
    """(instrument, id) of the findings in the report: of each instrument the newest about each subject, at most MOST_OF_ONE."""
    newest: dict[tuple[str, str], str] = {}
    for head in heads:  # newest first
        about = "" if head["of"] == head["id"] else head["of"]  # which names no subject where the finding states none
        newest.setdefault((head["instrument"], about), head["id"])
    counts: Counter[str] = Counter()
    shown = []
    for (instrument, _), ident in newest.items():
        counts[instrument] += 1
        if counts[instrument] <= MOST_OF_ONE:
            shown.append((instrument, ident))
    return sorted(shown, key=lambda each: each[0])


def _found(library: Library, instrument: str, ident: str) -> Markup:
    return chapters.finding(library.find(None, instrument, ident) | {"instrument": instrument})


def chapter(what: str, draw: Callable[[], Markup]) -> Markup:
    """The result of `draw`, or a sentence if the run's files are damaged."""
    try:
        return draw()
    except ClocheError as error:
        why = str(error)
    except UNFIT:
        why = f"The {what} cannot be drawn: its file has values of a wrong type or shape."
    return tag("section", tag("p", why, class_="sentence"))


def damage(sentences: list[str]) -> Markup:
    """A sentence for each file that could not be read."""
    return tag("section", [tag("p", said, class_="sentence") for said in sentences[:20]]) if sentences else EMPTY


def parameters(files: RunFiles) -> int | None:
    """Number of parameters in the last checkpoint, from the safetensors headers; None before the first checkpoint."""
    names = files.checkpoints()
    folder = f"checkpoints/{names[-1]}" if names else ""
    entries = [entry.name for entry in files.entries(folder) if names and entry.name.startswith("model")]
    shapes = [files.tensor_shapes(f"{folder}/{name}") for name in entries if name.endswith(".safetensors")]
    known = [shape for file in shapes for shape in (file or {}).values()]
    return sum(map(math.prod, known)) if shapes and None not in shapes else None


def title(files: RunFiles, about: Record, metrics: Metrics) -> Markup:
    splits = (about["data"] or {}).get("splits")
    train = splits.get("train") if isinstance(splits, dict) else None
    sizes = {key: number(train.get(key)) for key in ("bytes", "documents")} if isinstance(train, dict) else {}
    count, seconds, bpb = parameters(files), metrics.train.last("time"), metrics.validation.last("val_bpb")
    story = "A language model"
    story += f" of {short(count)} parameters" if count else ""
    story += f", trained in {duration(seconds)} minutes" if seconds else ""
    if sizes.get("bytes"):
        story += f" on {size(int(sizes['bytes'] or 0))} of text"
        story += f" in {_count(sizes['documents'], 'document')}" if sizes.get("documents") else ""
    story += "."
    adopted = adopted_from(about)
    if adopted is not None:
        missing = "so there are no curves, samples or health records"
        story += f" It was adopted from {adopted} and not trained here, {missing}."
    if bpb is not None:
        story += f" It needs {bpb:.3f} bits per byte of held-out text; uncompressed bytes need 8."
    steps = [s for s in (metrics.train.last("step"), metrics.validation.last("step")) if s is not None]
    facts: list[tuple[str, Child]] = [
        ("steps", _shown(max(steps, default=None), "{:,.0f}")),
        ("loss", _shown(metrics.train.last("loss"), "{:.3f}", "nats/token")),
        ("validation", _shown(bpb, "{:.3f}", "bits/byte")),
        ("tokens seen", short(metrics.train.last("tokens"))),
        ("speed", join(short(usual(metrics.train, "tokens_per_second")), " ", tag("small", "tokens/s"))),
        ("MFU", _shown(usual(metrics.train, "mfu"), "{:.1%}")),
        ("seed", words(about["info"].get("seed", "–"), 60)),
        ("started", words(about["info"].get("created", "–"), 1000)[:10]),
    ]
    asked = tag("p", about["question"], class_="question") if about["question"] else EMPTY
    return tag(
        "header",
        tag("p", "cloche", class_="brand"),
        tag("h1", about["name"]),
        asked,
        tag("p", story),
        figures(facts),
        class_="title",
    )


def adopted_from(about: Record) -> str | None:
    """Source of an adopted run; None for a run that was trained here."""
    adopted = about["info"].get("adopted")
    return words(adopted.get("source"), 300) if isinstance(adopted, dict) else None


def size(count: int) -> str:
    """A number of bytes in megabytes or gigabytes."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _count(count: Any, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def usual(columns: Columns, key: str) -> float | None:
    """The median, which a machine that was busy for a moment does not change."""
    values = [value for value in columns.columns[key] if value == value]
    return statistics.median(values) if values else None


def _shown(value: float | None, form: str, unit: str = "") -> Child:
    if value is None:
        return "–"
    return join(form.format(value), " ", tag("small", unit)) if unit else form.format(value)


def curves(metrics: Metrics, events: list[Record]) -> Markup:
    train, validation = metrics.train.thinned()["columns"], metrics.validation.thinned()["columns"]
    alarms = [e for e in events if e["kind"] in ALARMS]
    marks = tuple((e["step"], f"{e['kind']}, {e['message']}") for e in alarms if "step" in e)
    panels = [
        chapters.curve("Training loss", "nats per token", train, "loss", marks),
        chapters.curve("Validation", "bits per byte", validation, "val_bpb", marks),
        chapters.curve("Gradient norm", "before clipping", train, "grad_norm", marks),
        chapters.curve("Learning rate", "", train, "lr", low=0.0),
    ]
    drawn = [as_html(panel) for panel in panels if panel is not None]
    if not drawn:
        return EMPTY
    happened = [tag("li", f"step {e.get('step', 0):,}: {e['kind']}, {e['message']}") for e in alarms]
    listed = [tag("p", "The dashed lines mark:", class_="note"), tag("ul", happened, class_="note")] if happened else []
    return tag("section", tag("h2", "How it learned"), tag("div", drawn, class_="drawings"), listed)


def what_next(files: RunFiles, about: Record, samples: list[Record], events: list[Record]) -> Markup:
    path = shlex.quote(str(files.path))
    prompt = next((record["prompt"] for record in samples), "Once")
    ended = next((event for event in reversed(events) if event["kind"] in STATES), None)
    finished = ended is not None and ended["kind"] == "finished"
    # A finished run has no steps left.
    more = f" --set run.steps={2 * round(ended.get('step') or 100)}" if ended and finished else ""
    on = (f"cloche resume {path}{more}", "continue training")
    if adopted_from(about) is not None:
        on = (f"cloche pretrain --from {path} --out RUN", "continue training from it")
    commands = [
        (f"cloche open {path}", "these pages, live and interactive"),
        (f"cloche generate {path} {shlex.quote(prompt)}", "generate text"),
        on,
        (f"cloche verify {path}", "check every hash"),
    ]
    wide = max(len(command) for command, _ in commands)
    code = "\n".join(f"{command:{wide}}  # {why}" for command, why in commands)
    version = words(about["info"].get("cloche"), 60)
    typed = tag("pre", tag("code", code), tabindex=0, role="region", aria_label="commands")
    made = tag("footer", f"Made by cloche {version} from the run folder {about['name']}.")
    return join(tag("section", tag("h2", "What to type next"), typed, class_="next"), made)
