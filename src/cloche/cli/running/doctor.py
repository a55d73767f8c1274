"""`cloche doctor`: checks this machine and measures how fast it multiplies matrices, or examines a recipe before it is
trained."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.looking.look import keep_one
from cloche.cli.options import AsJson, Sets
from cloche.cli.outputs import CheckRecord, MachineChecked
from cloche.cli.running.grow import read_recipe, settings
from cloche.cli.streams import emit

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WANTED_GB = 3.0  # of memory and of disk: what `cloche demo` needs at most
GB = 1e9


@dataclass(frozen=True)
class Check:
    """One line of the report. `ok` is False only for problems that keep `cloche demo` from working well."""

    name: str
    value: str | int | float | bool | None
    ok: bool = True
    note: str = ""

    def record(self) -> CheckRecord:
        return {"name": self.name, "value": self.value, "ok": self.ok, "note": self.note}


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE|RUN]", help="A recipe to examine: a .toml file, or a run for its recipe and text."
        ),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, or examine a recipe before it is trained.

    Without a recipe: Python, torch, processor, memory, disk, browser and accelerator. With a recipe (or --set): the signal
    of each layer forward and backward at initialisation, the gain that each activation costs, memory, time per step,
    which layer will fail, and the setting to change. Exits with 1 if there is a problem.
    """
    if recipe is not None or sets:
        _examine(recipe, sets, as_json)
        return
    checks = [*_software(), *_processor(), *_space(), _browser(), *_speed()]
    if as_json:
        report: MachineChecked = {
            "ok": all(check.ok for check in checks),
            "checks": [check.record() for check in checks],
        }
        emit(report)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok " if check.ok else "BAD"
            print(f"{mark} {check.name:{width}}  {_shown(check.value)}{'  ' if check.note else ''}{check.note}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _examine(path: Path | None, sets: list[str] | None, as_json: bool) -> None:
    from cloche.diagnose import examine
    from cloche.runs import Run
    from cloche.train import Recipe

    run = Run.open(path) if path is not None and path.is_dir() else None
    if run is not None:
        recipe = Recipe.parse(run.recipe, f"{run.path}/recipe.toml")
    else:
        recipe = read_recipe([] if path is None else [path])
    finding = examine(recipe.with_set(settings(sets)), run)
    keep_one(finding, run, as_json)
    if finding.figures["problems"]:
        raise typer.Exit(1)


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _software() -> list[Check]:
    from cloche import __version__

    new_enough = sys.version_info >= (3, 11)
    return [
        Check("cloche", __version__),
        Check("python", platform.python_version(), new_enough, "" if new_enough else "3.11 or newer is required"),
    ]


def _processor() -> list[Check]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = _cpu_flags()
    return [
        Check("cores", available, note=f"of {os.cpu_count()}, {platform.machine()}"),
        Check("AVX512_BF16", "avx512_bf16" in flags),
        Check("AMX_BF16", "amx_bf16" in flags),
    ]


def _cpu_flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return set()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _space() -> list[Check]:
    disk = shutil.disk_usage(".").free / GB
    checks = [Check("disk free (GB)", round(disk, 1), disk > WANTED_GB, "in the current folder")]
    memory = _memory_available()
    if memory is not None:
        checks.append(Check("memory free (GB)", round(memory / GB, 1), memory / GB > WANTED_GB))
    return checks


def _memory_available() -> float | None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024


def _browser() -> Check:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return Check("chromium", found or False, note="" if found else "only the microscope's tests need it")


def _speed() -> list[Check]:
    try:
        import torch
    except ImportError as error:
        return [Check("torch", False, False, f"cannot be imported ({error}); install cloche again")]
    from cloche.train import best_precision, gemm_rates

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = gemm_rates(device)
    gpu = torch.cuda.get_device_name(0) if device == "cuda" else False
    return [
        Check("torch", torch.__version__, note=f"{torch.get_num_threads()} threads"),
        Check("GPU", gpu, note="" if gpu else "the CPU is used for training"),
        *(Check(f"{name} GEMM (GFLOP/s)", round(rate / 1e9), note=f"on the {device}") for name, rate in rates.items()),
        Check("trains in", best_precision(rates)),
    ]
