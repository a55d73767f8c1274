"""The offline report: one page that tells a run's story, drawn from its folder alone, without a script or a request."""

from __future__ import annotations

import json
import shlex
import statistics
import struct
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from cloche.microscope import chapters, units
from cloche.microscope.drawing import Plot
from cloche.microscope.library import question
from cloche.runs import Run

STATIC = Path(__file__).parent / "static"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
Record = dict[str, Any]


def write_report(run_path: str | Path) -> Path:
    """Writes report.html into a run folder and returns its path. A part that the run does not have yet is left out.

    Raises ClocheError where there is no run.
    """
    run = Run.open(run_path)
    return run.write_bytes("report.html", page(run).encode())


def page(run: Run) -> str:
    """The whole report as HTML."""
    name = Path(run.path).resolve().name
    metrics, events = run.read_log("metrics"), run.read_log("events")
    lens = run.findings("logit-lens")
    features, measured = units.newest(run.findings("features"), run.findings("dictionary"))
    density, probing = run.findings("activation-density"), run.findings("sparse-probing")
    parts = [
        title(run, name, metrics),
        curves(metrics, events),
        chapters.samples(run.read_log("samples")),
        chapters.health(run.read_log("health")),
        chapters.lens(lens[0]) if lens else "",
        units.dictionary(measured) if measured else "",
        chapters.features(features) if features else "",
        units.probing(probing[0]) if probing else "",
        units.density(density[0]) if density else "",
        what_next(run, name),
    ]
    style = (STATIC / "style.css").read_text() + (STATIC / "report.css").read_text()
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(name)} · cloche</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<style>\n{style}</style>\n</head>\n<body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def parameters(run: Run) -> int | None:
    """How many numbers the last checkpoint's weights hold, from the safetensors header; None before the first checkpoint."""
    checkpoints = run.checkpoints()
    if not checkpoints:
        return None
    with open(checkpoints[-1].path / "model.safetensors", "rb") as file:
        size = file.read(8)
        try:
            header = json.loads(file.read(struct.unpack("<Q", size)[0]))
        except (struct.error, ValueError, OverflowError, MemoryError):
            return None  # `cloche verify` is the one to complain about a damaged file
    total = 0
    for name, tensor in header.items():
        count = 1
        for length in tensor.get("shape", ()) if name != "__metadata__" else (0,):
            count *= length
        total += count
    return total


def last_of(records: Iterable[Record], key: str) -> Any:
    return next((r[key] for r in reversed(list(records)) if r.get(key) is not None), None)


def title(run: Run, name: str, metrics: list[Record]) -> str:
    data_file = Path(run.path) / "data" / "data.json"
    splits = json.loads(data_file.read_text()).get("splits", {}) if data_file.is_file() else {}
    train = splits.get("train", {})
    size, seconds, bpb = parameters(run), last_of(metrics, "time"), last_of(metrics, "val_bpb")
    of = f" of {chapters.short(size)} parameters" if size else ""
    on = (
        f" on {chapters.size(train['bytes'])} of text in {_count(train['documents'], 'document')}"
        if train.get("bytes")
        else ""
    )
    spent = f", grown in {chapters.duration(seconds)} minutes" if seconds else ""
    asked = question(run.recipe)
    story = f"A language model{of}{spent}{on}."
    if bpb is not None:
        story += (
            f" It now needs {bpb:.3f} bits for each byte of text that it has never seen; a file of plain bytes needs 8."
        )
    facts = [
        ("steps", _shown(last_of(metrics, "step"), "{:,}")),
        ("loss", _shown(last_of(metrics, "loss"), "{:.3f}", "nats/token")),
        ("validation", _shown(bpb, "{:.3f}", "bits/byte")),
        ("tokens seen", chapters.short(last_of(metrics, "tokens"))),
        ("speed", f"{chapters.short(median_of(metrics, 'tokens_per_second'))} <small>tokens/s</small>"),
        ("MFU", _shown(median_of(metrics, "mfu"), "{:.1%}")),
        ("seed", str(run.info.get("seed", "–"))),
        ("begun", escape(str(run.info.get("created", "–"))[:10])),
    ]
    figures = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)
    return (
        f'<header class="title"><p class="brand">cloche</p><h1>{escape(name)}</h1>'
        + (f'<p class="question">{escape(asked)}</p>' if asked else "")
        + f"<p>{story}</p>"
        f'<dl class="figures">{figures}</dl></header>'
    )


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def median_of(records: Iterable[Record], key: str) -> float | None:
    """The usual value: a machine that was busy for a moment at the end should not stand for the whole run."""
    values = [r[key] for r in records if r.get(key) is not None]
    return statistics.median(values) if values else None


def _shown(value: Any, form: str, unit: str = "") -> str:
    if value is None:
        return "–"
    return form.format(value) + (f" <small>{unit}</small>" if unit else "")


def curves(metrics: list[Record], events: list[Record]) -> str:
    def points(key: str) -> list[tuple[float, float]]:
        return [(r["step"], r[key]) for r in metrics if r.get(key) is not None]

    steps = [r["step"] for r in metrics]
    marks = tuple(e["step"] for e in events if e.get("kind") in ("spike", "nonfinite"))
    plots = [
        Plot("Training loss", "nats per token", points("loss"), "{:.3f}".format, marks),
        Plot("Validation", "bits per byte", points("val_bpb"), "{:.3f}".format, marks, dots=True),
        Plot("Gradient norm", "", points("grad_norm"), "{:.3g}".format, marks),
        Plot("Learning rate", "", points("lr"), "{:.3g}".format),
    ]
    drawn = "".join(plot.svg(min(steps), max(steps)) for plot in plots if plot.points)
    if not drawn:
        return ""
    alarm = "".join(
        f"<li>step {e['step']:,}: {escape(e['kind'])}, {escape(e.get('message', ''))}</li>"
        for e in events
        if e.get("kind") in ("spike", "nonfinite")
    )
    happened = f'<p class="note">The dashed lines mark:</p><ul class="note">{alarm}</ul>' if alarm else ""
    return f'<section><h2>How it learned</h2><div class="panels">{drawn}</div>{happened}</section>'


def what_next(run: Run, name: str) -> str:
    path = shlex.quote(str(run.path))
    prompt = next((r["prompt"] for r in run.read_log("samples")), "Once")
    commands = [
        (f"cloche open {path}", "these pages, live and explorable"),
        (f"cloche generate {path} {shlex.quote(prompt)}", "let it write"),
        (f"cloche resume {path}", "let it grow on"),
        (f"cloche verify {path}", "check every hash"),
    ]
    wide = max(len(command) for command, _ in commands)
    code = "\n".join(escape(f"{command:{wide}}  # {why}") for command, why in commands)
    made = f"Made by cloche {escape(str(run.info.get('cloche', '')))} from the run folder {escape(name)} alone."
    return f'<section class="next"><h2>What to type next</h2><pre><code>{code}</code></pre></section><footer>{made}</footer>'
