"""Memory of a training process apart from its tensors: what is imported, and what its heap wastes.

Run as a module it measures this in a process of its own, and prints it as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cloche.errors import ClocheError
from cloche.files import cache_folder, to_json, write_atomically

SIZES = (2, 8)  # rows of the two rehearsals that the heap is measured by
STEPS = 4  # of each: the heap grows for the first few
# Where the system does not tell what a process takes: measured on Linux with torch 2.13.
USUAL = (3.5e8, 1.6)
LASTING = ("weights", "optimizer")  # made once


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes of a training process = `base` + its weights and optimiser's state + `heap` times its other tensors.

    What is made and freed in every step leaves gaps in the heap between blocks of other sizes: with glibc, and freed memory
    kept for the next step, `heap` is about 1.5.

    >>> from cloche.train import ProcessMemory
    >>> ProcessMemory(base=3e8, heap=1.5).bytes({"weights": 1e6, "activations": 2e6})
    304000000.0
    """

    base: float
    heap: float

    def bytes(self, tensors: Mapping[str, float]) -> float:
        """Of a process with tensors of so many bytes by purpose."""
        lasting, passing = _parted(tensors)
        return self.base + lasting + self.heap * passing


def _parted(tensors: Mapping[str, float]) -> tuple[float, float]:
    lasting = sum(size for purpose, size in tensors.items() if purpose in LASTING)
    return lasting, sum(tensors.values()) - lasting


def process_memory() -> ProcessMemory:
    """Measured once per machine, torch version and number of threads, in a process of its own (about five seconds), and
    kept in the user's cache folder."""
    key = f"{platform.node()}, {platform.platform()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    path = cache_folder() / "process.json"
    kept = _read(path)
    if (found := _of(kept.get(key))) is not None:
        return found
    command = [sys.executable, "-m", "cloche.train.prediction.process", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        measured = _of(json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        measured = None
    if measured is None:
        return ProcessMemory(*USUAL)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json({**kept, key: [measured.base, measured.heap]}, indent=1))
    except (OSError, ClocheError):
        pass  # a cache that cannot be written costs a measurement, no more
    return measured


def _of(value: Any) -> ProcessMemory | None:
    good = isinstance(value, list) and len(value) == 2 and all(isinstance(v, float) and 0 < v < 1e12 for v in value)
    return ProcessMemory(*value) if good else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def most_resident() -> float:
    """The most bytes of memory that this process has had at one time; raises OSError where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    if importlib.util.find_spec("resource") is None:
        raise OSError("no resource module")
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _measure(threads: int) -> list[float]:
    """[base, heap] of two rehearsals of the default recipe, the smaller first: a line through both."""
    from cloche.train.prediction.rehearsal import Rehearsal
    from cloche.train.pretrain import Trainer  # noqa: F401  # imports all that a run does
    from cloche.train.recipe.recipe import Recipe

    points = []
    for rows in SIZES:
        recipe = Recipe().with_set({"run.threads": threads, "run.precision": "fp32", "run.batch": rows})
        rehearsal = Rehearsal(recipe)
        for act in (*[rehearsal.step] * STEPS, rehearsal.measure_health, rehearsal.validate, rehearsal.step):
            act()
        before = most_resident()  # counting the tensors takes memory of its own
        lasting, passing = max((_parted(held) for held in rehearsal.memory().values()), key=sum)
        points.append((passing, before - lasting))
        del rehearsal
    (x0, y0), (x1, y1) = points
    heap = max(1.0, (y1 - y0) / (x1 - x0))
    return [y1 - heap * x1, heap]


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]))))
