"""Makes the virtual environment of one comparison: this package beside its peers, at the versions their file pins.

    python -m bench.setup NAME...

It reads requirements/NAME.txt, makes .venvs/NAME and prints how to run the comparison there. Comparisons with the same peers
share an environment: where the file is the one line `-r OTHER.txt`, .venvs/NAME is a link to .venvs/OTHER.
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
    if (line := pins.read_text().split())[0] == "-r" and len(line) == 2:
        make(line[1].removesuffix(".txt"))
        if not folder.exists():
            folder.symlink_to(line[1].removesuffix(".txt"), target_is_directory=True)
        return folder / "bin" / "python"
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
        scripts = HERE.glob(f"*/{name}.py")
        print(python, *(f"-m bench.{script.parent.name}.{name}" for script in scripts))


if __name__ == "__main__":
    main()
