"""Models that were trained elsewhere, as folders of this machine: their steps, and what to type to make a run of one."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from cloche.errors import RunMissing

_STEP = re.compile(
    r"(?:^|[^a-z])(?:global_)?(?:step|checkpoint|ckpt|iter|iteration)[-_]?(\d{1,15})(?!\d)", re.IGNORECASE
)


def step_in(name: str) -> int | None:
    """The step that a folder's or revision's name states, as in step1000, checkpoint-500 or pythia-step3000; None if none.

    >>> from cloche.runs import step_in
    >>> step_in("pythia-70m-step3000"), step_in("stage1-step-900-tokens4B"), step_in("main")
    (3000, 900, None)
    """
    match = _STEP.search(name)
    return int(match[1]) if match else None


def revisions_in(folder: Path) -> dict[str, int]:
    """The model folders directly in a folder whose names state a step: {name: step}, by step.

    >>> from pathlib import Path
    >>> from cloche.runs import revisions_in
    >>> revisions_in(Path("nowhere"))
    {}
    """
    try:
        found = {path.name: step_in(path.name) for path in folder.iterdir() if (path / "config.json").is_file()}
    except OSError:
        return {}
    return dict(sorted(((name, step) for name, step in found.items() if step is not None), key=lambda item: item[1]))


def not_a_run(path: Path) -> RunMissing:
    """The error for a place that is no run: where a model is there, with the command that makes a run of it."""
    if path.is_file():
        return RunMissing(
            f"{path} is a file, and a run is a folder; name a folder that `cloche pretrain` or `demo` made"
        )
    if (path / "config.json").is_file() or revisions_in(path):
        return RunMissing(f"{path} is a model and not a run; make a run of it: {adopt_command(path)}")
    if not path.exists() and len(path.parts) == 2 and not path.parent.exists() and not path.is_absolute():
        return RunMissing(
            f"there is no run {path} here; if it is a model of the Hugging Face Hub, make a run of it: {adopt_command(path)}"
        )
    if not path.exists():
        return RunMissing(f"there is no folder {path}; name a run folder")
    return RunMissing(f"{path} is not a run: it has no run.json; name a folder that `cloche pretrain` or `demo` made")


def adopt_command(model: Path | str) -> str:
    """The command that makes a run of a model, in a folder that is free.

    >>> from cloche.runs import adopt_command
    >>> adopt_command("openai-community/gpt2")
    'cloche adopt openai-community/gpt2 --out runs/gpt2'
    """
    parts = [part for part in Path(os.path.abspath(model)).parts if part not in ("hf", "/")]
    name = parts[-1] if parts else "model"
    folder, number = Path("runs") / name, 1
    while os.path.lexists(folder):
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return f"cloche adopt {shlex.quote(str(model))} --out {shlex.quote(str(folder))}"
