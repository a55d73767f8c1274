"""How many files change for each thing that is added to cloche: the examples of docs/extending.md, made built-ins of a copy.

Each example becomes a module of the package that owns its base class, and its name an export of that package; then a fresh
process must find it by its bare name.
"""

from __future__ import annotations

import argparse
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import rounds

ROOT = Path(__file__).resolve().parents[1]
FIND = "from cloche.part import part_from_line; from cloche.{package} import {base}; part_from_line({line!r}, {base})"
LOOK = "from cloche.interp import find_instrument; find_instrument('norm-by-layer')"
READ = "from cloche.model.huggingface.files import find_family; find_family('alpaca')"
# title: (package, module, exported name, what a fresh process must be able to do)
KINDS = {
    "An objective": (
        "train",
        "objectives/low_entropy",
        "LowEntropy",
        FIND.format(package="train", base="Objective", line="LowEntropy"),
    ),
    "An optimiser": (
        "train",
        "optimizers/momentum",
        "Momentum",
        FIND.format(package="train", base="Optimizer", line="Momentum"),
    ),
    "A schedule": (
        "train",
        "optimizers/stairs",
        "Stairs",
        FIND.format(package="train", base="Schedule", line="Stairs"),
    ),
    "A body": ("model", "bodies/repeat", "Repeat", "from cloche.model import Repeat"),
    "A kind of sparse autoencoder": (
        *("sparse", "saes/bounded", "Bounded"),
        FIND.format(package="sparse", base="Kind", line="Bounded(top=4)"),
    ),
    "A pursuit": (
        *("sparse/pursuit", "largest", "Largest"),
        FIND.format(package="sparse.pursuit", base="Pursuit", line="Largest(k=2)"),
    ),
    "An instrument": ("interp", "norms", "norm_by_layer", LOOK),
    "A task": ("tasks", "reverse", "Reverse", FIND.format(package="tasks", base="Task", line="Reverse")),
    "A Hugging Face family": ("model/huggingface/families", "alpaca", "Alpaca", READ),
}


def examples() -> dict[str, str]:
    """The code of each section of docs/extending.md."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    sections = re.finditer(r"^## (.+?)\n.*?^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return {match[1]: match[2] for match in sections}


def changed_by(title: str, code: str) -> list[str]:
    """The files that change when the example becomes a built-in. Raises CalledProcessError unless it is then found."""
    package, module, name, check = KINDS[title]
    with tempfile.TemporaryDirectory() as there:
        source = Path(there) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        home = source / "cloche"
        made = home / package / f"{module}.py"
        made.write_text(f'"""{title}."""\n\n{code}')
        edited = home / package / "__init__.py"
        dotted = f"cloche.{package}.{module}".replace("/", ".")
        text = edited.read_text()
        text = text.replace("if TYPE_CHECKING:\n", f"if TYPE_CHECKING:\n    from {dotted} import {name}\n", 1)
        text = text.replace("__all__ = [\n", f'__all__ = [\n    "{name}",\n', 1)
        edited.write_text(text)
        subprocess.run(
            [sys.executable, "-c", check], check=True, env={"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"}
        )
        return differing(ROOT / "src", source)


def differing(before: Path, after: Path) -> list[str]:
    """The Python files that are new or have other bytes in `after`."""
    paths = sorted(path.relative_to(after) for path in after.rglob("*.py"))
    same = (
        path for path in paths if (before / path).is_file() and filecmp.cmp(before / path, after / path, shallow=False)
    )
    unchanged = set(same)
    return [path.as_posix() for path in paths if path not in unchanged]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keep", action="store_true", help="write bench/results/places.json")
    chosen = parser.parse_args()
    code = examples()
    found = {title: changed_by(title, code[title]) for title in chosen.only}
    for title, files in found.items():
        print(f"{title:<32} {len(files)}  {', '.join(files)}")
    if chosen.keep:
        rounds.write("places", {"what": "Files changed for each thing added.", "goal": 2, "files": found})


if __name__ == "__main__":
    main()
