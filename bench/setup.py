"""Makes the virtual environment of one comparison: this package beside its peers, at the versions their file pins.

    python -m bench.setup NAME...

It reads requirements/NAME.txt, makes .venvs/NAME and prints how to run the comparison there.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent


def make(name: str) -> Path:
    """Creates or brings up to date the environment; returns its python."""
    pins = HERE / "requirements" / f"{name}.txt"
    if not pins.is_file():
        known = ", ".join(sorted(path.stem for path in pins.parent.glob("*.txt")))
        raise SystemExit(f"there is no {pins.name} among the requirements; comparisons with peers are {known}")
    folder = HERE / ".venvs" / name
    if not folder.exists():
        venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(pins), "-e", f"{HERE.parent}[all]"]
    subprocess.run(install, check=True)
    return python


def main() -> None:
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    for name in sys.argv[1:]:
        python = make(name)
        script = next(HERE.glob(f"*/{name}.py"))
        print(f"{python} -m bench.{script.parent.name}.{name}")


if __name__ == "__main__":
    main()
