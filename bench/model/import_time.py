"""What importing costs after torch's own import, and what a core install weighs on the disk.

Packages load what they hand out when it is asked for, so each is asked for all of it: `from PACKAGE import *`, after `import
torch`, in a fresh interpreter that says what the second took, in wall and in CPU seconds. The packages take turns, the order
turns round each time, and the median of the rounds counts. With `--install`, the package is installed without extras into a
fresh environment under the system's temporary folder, with the CPU build of torch, its files are summed, and it is removed
again.

    python -m bench.model.import_time [--rounds 15] [--install [--torch-index URL]]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from bench.rounds import Spread, busy, machine, table, write

ROOT = Path(__file__).parents[2]
PACKAGES = ("", ".model", ".decode", ".sparse", ".train", ".interp", ".glass", ".cli")
MOST_SECONDS = 0.3  # that `import cloche.model` may add
MOST_MEGABYTES = 1150


CODE = """
import time, torch
wall, cpu = time.perf_counter(), time.process_time()
from {package} import *
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def costs(rounds: int) -> dict[str, dict[str, Spread]]:
    """Wall and CPU seconds of each package's import after torch's."""
    names = [f"cloche{name}" for name in PACKAGES]
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for index in range(-1, rounds):  # the first is not counted: it may compile what Python keeps as bytecode
        for name in names if index % 2 else reversed(names):
            command = [sys.executable, "-c", CODE.format(package=name)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if index >= 0:
                found[name].append([float(number) for number in said.split()])
    return {
        name: {clock: Spread.of(values) for clock, values in zip(("wall", "cpu"), zip(*rows, strict=True), strict=True)}
        for name, rows in found.items()
    }


def installed_megabytes(torch_index: str | None) -> dict[str, float]:
    """Megabytes (10^6 bytes) of site-packages in a fresh environment with the core install, in all and of the five largest."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "Scripts" if os.name == "nt" else "bin", "python"))
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "torch", *(["--index-url", torch_index] if torch_index else [])], check=True)
        subprocess.run([*pip, str(ROOT)], check=True)
        site = next(Path(folder).rglob("site-packages"))
        sizes = {entry.name: _bytes(entry) / 1e6 for entry in site.iterdir() if not entry.name.startswith("pip")}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    return {"all": sum(sizes.values()), **{name: sizes[name] for name in largest}}


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(os.lstat(file).st_size for file in files if not file.is_dir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--torch-index", help="where pip finds the CPU build of torch; by default as pip is set up")
    options = parser.parse_args()
    load = busy()
    found = costs(options.rounds)
    print(table(["import", "seconds", "CPU"], [[name, *map(str, spreads.values())] for name, spreads in found.items()]))
    record: dict[str, object] = {
        "machine": machine(),
        "load": load,
        "rounds": options.rounds,
        "wanted": {"cloche.model": MOST_SECONDS, "megabytes": MOST_MEGABYTES},
        "seconds": {
            name: {clock: spread.record() for clock, spread in spreads.items()} for name, spreads in found.items()
        },
    }
    if options.install:
        sizes = installed_megabytes(options.torch_index)
        print(table(["installed", "MB"], [[name, f"{size:.0f}"] for name, size in sizes.items()]))
        record["megabytes"] = sizes
    print(write("import_time", record))


if __name__ == "__main__":
    main()
