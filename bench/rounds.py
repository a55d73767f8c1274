"""Fair timing of several sides on one machine: interleaved rounds, wall and CPU seconds, ratios within a round.

A machine's speed drifts, and other processes come and go. So every side takes its turn in every round (the order turns round
each time), ratios are taken within a round, and what is reported is their median with the least and the greatest beside it. CPU
seconds stand beside wall seconds: they suffer less from neighbours.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"
TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_bf16",
    "amx_tile",
    "asimd",
    "bf16",
)


@dataclass
class Side:
    """One contestant: `work` is what is timed, `units` how much of what is counted (tokens, calls) one call does."""

    name: str
    work: Callable[[], object]
    units: float = 1.0
    wall: list[float] = field(default_factory=list)  # seconds a call, one entry a round
    cpu: list[float] = field(default_factory=list)  # CPU seconds of the whole process a call, one entry a round

    def time(self, calls: int) -> None:
        """One round's entry: the mean over `calls` calls."""
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            self.work()
        self.wall.append((time.perf_counter() - wall) / calls)
        self.cpu.append((time.process_time() - cpu) / calls)


def _serve(
    pipe: Connection, make: Callable[..., tuple[Callable[[], object], float]], arguments: tuple[object, ...]
) -> None:
    """The other process of `apart`: times as many calls as it is asked for, until it is asked for none."""
    work, operations = make(*arguments)
    pipe.send(operations)
    while calls := pipe.recv():
        side = Side("", work)
        side.time(calls)
        pipe.send((side.wall[0], side.cpu[0]))


class Apart(Side):
    """A side in a process of its own, which takes its turn like the others: no side finds its memory warmed, or torn to pieces,
    by another's. `make(*arguments)` gives what is timed and its operations a call; both must be picklable."""

    def __init__(self, name: str, make: Callable[..., tuple[Callable[[], object], float]], *arguments: object) -> None:
        super().__init__(name, lambda: self.time(1, keep=False))
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=_serve, args=(other, make, arguments), daemon=True).start()
        other.close()
        self.operations: float = self._pipe.recv()

    def time(self, calls: int, keep: bool = True) -> None:
        self._pipe.send(calls)
        wall, cpu = self._pipe.recv()
        if keep:
            self.wall.append(wall)
            self.cpu.append(cpu)


@dataclass(frozen=True)
class Spread:
    """A median with the least and greatest of what it is the median of."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f}..{self.greatest:.3f})"

    def record(self) -> dict[str, float]:
        return {"median": self.median, "least": self.least, "greatest": self.greatest}


def interleave(sides: list[Side], rounds: int, calls: int = 1, warm: int = 2) -> None:
    """Every side in every round, after `warm` untimed calls each."""
    for side in sides:
        for _ in range(warm):
            side.work()
    for index in range(rounds):
        for side in sides if index % 2 == 0 else reversed(sides):
            side.time(calls)


def ratio(top: Side, bottom: Side, clock: str = "wall") -> Spread:
    """Seconds of `top` over seconds of `bottom`, a unit, round by round: how many times faster `bottom` is."""
    pairs = zip(getattr(top, clock), getattr(bottom, clock), strict=True)
    return Spread.of((t / top.units) / (b / bottom.units) for t, b in pairs)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def machine(packages: Iterable[str] = ("torch",)) -> dict[str, object]:
    """What the figures depend on: cores, instruction sets and versions; no names of hosts, users or folders."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "flags": _flags(),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def _flags() -> list[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return []
    words = {
        word
        for line in info.read_text().splitlines()
        if line.lower().startswith(("flags", "features"))
        for word in line.split()
    }
    return [flag for flag in TELLING_FLAGS if flag in words]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def asked(what: str | None, **defaults: object) -> argparse.Namespace:
    """What the command line asks of a bench: an option for each default, of its type. `threads` becomes torch's."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    if hasattr(options, "threads"):
        import torch

        torch.set_num_threads(options.threads)
    return options


def busy() -> float:
    """Load average of the last minute before the run: a figure taken on a busy machine says so."""
    return os.getloadavg()[0]


LOAD = busy()


def write(name: str, record: dict[str, object], packages: str = "") -> Path:
    """results/NAME.json; with the load before and the machine, where `packages` names those whose versions count."""
    if packages:
        record = {**record, "load_before": LOAD, "machine": machine(packages.split())}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
