"""Progress on the terminal: a live line if it can be redrawn, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cloche.drawing import visible

Record = dict[str, Any]
PLAIN_EVERY = 10.0  # seconds between plain lines
SAMPLE_WIDTH = 240  # characters shown of a sample
# Events that are printed; the log has all. A stop is not among them: the command's last line reports it.
SHOWN_EVENTS = ("spike", "warning", "nonfinite", "replan", "prune", "finished", "start", "resume", "log")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises, because rich would end the process silently."""
        raise BrokenPipeError


class Screen:
    """Prints progress. `stderr` keeps stdout free for machine-readable output."""

    def __init__(self, stderr: bool = False) -> None:
        self.console = _Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal

    def print(self, text: str, style: str = "") -> None:
        """Prints a permanent line."""
        self.console.print(Text(text, style))

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[float, float, str], None]]:
        """Progress bar of a stage with a known total; yields update(done, total, note)."""
        with self._line() as show:
            show(title, 0.0, "…", True)

            def update(done: float, total: float, note: str) -> None:
                show(title, done / max(total, 1e-9), note, False)

            yield update

    def follow(self, records: Iterable[Record], steps: int) -> TrainingProgress:
        """Shows the records of a training run as they arrive; returns its final state."""
        training = TrainingProgress(steps)
        with self._line() as show:
            for record in records:
                training.update(record)
                if record["log"] == "metrics":
                    show("growing", training.step / training.steps, training.line(), "val_bpb" in record)
                elif record["log"] == "samples" and record["prompt"] == training.first_prompt:
                    self.print(f"  {record['step']:>6,} │ {_one_line(record['prompt'] + record['text'])}", "dim")
                elif record["log"] == "events" and record["kind"] in SHOWN_EVENTS:
                    self.print(f"  {record['step']:>6,} │ {record['message']}")
        return training

    @contextmanager
    def _line(self) -> Iterator[Callable[[str, float, str, bool], None]]:
        """Yields show(title, share, note, important), which without a live terminal prints only every few seconds, or if
        important."""
        if not self.live:
            yield self._plainly()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("", total=1.0, note="")
            yield lambda title, share, note, _: progress.update(task, description=title, completed=share, note=note)

    def _plainly(self) -> Callable[[str, float, str, bool], None]:
        last = [time.monotonic()]

        def show(title: str, share: float, note: str, important: bool) -> None:
            if important or time.monotonic() - last[0] >= PLAIN_EVERY:
                last[0] = time.monotonic()
                self.print(f"{title} {note or f'{share:.0%}'}")

        return show


class TrainingProgress:
    """The latest values of all records of a training run."""

    def __init__(self, steps: int) -> None:
        self.steps, self.step = steps, 0
        self.metrics: Record = {}
        self.validated = 0  # step of the last validation
        self.first_prompt: str | None = None
        self.ended: str | None = None

    def update(self, record: Record) -> None:
        self.step = max(self.step, record["step"])
        if record["log"] == "metrics":
            self.metrics |= {key: value for key, value in record.items() if key != "log"}
            if "val_bpb" in record:
                self.validated = record["step"]
        elif record["log"] == "samples" and self.first_prompt is None:
            self.first_prompt = record["prompt"]
        elif record["log"] == "events":
            self.ended = record["kind"]
            self.steps = record.get("steps", self.steps)  # changed by a re-plan

    def line(self) -> str:
        """Step, loss, validation loss, speed, MFU and time left, as far as known."""
        said = [f"step {self.step:,}/{self.steps:,}"]
        forms: dict[str, Callable[[float], str]] = {
            "loss": lambda x: f"loss {x:.3f}",
            "val_bpb": lambda x: (
                f"val {x:.3f} bits/byte" + (f" at {self.validated:,}" if self.validated < self.step else "")
            ),
            "val_bpb_average": lambda x: f"average {x:.3f}",
            "tokens_per_second": lambda x: f"{x:,.0f} tok/s",
            "mfu": lambda x: f"MFU {x:.0%}",
            "eta": lambda x: f"{int(x) // 60}:{int(x) % 60:02d} left",
        }
        return " · ".join(
            said + [form(self.metrics[key]) for key, form in forms.items() if self.metrics.get(key) is not None]
        )


def _one_line(text: str) -> str:
    shown = visible(text, space=" ")
    return shown if len(shown) <= SAMPLE_WIDTH else shown[: SAMPLE_WIDTH - 1] + "…"
