"""What instruments read beside a model: its run's held-out text, dictionaries, and other checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np

from cloche.data import PackedTokens
from cloche.errors import DictionaryMissing
from cloche.interp.dictionaries.features import held_out_windows
from cloche.interp.route import Route
from cloche.interp.subject import Subject
from cloche.model import Network
from cloche.runs import Run
from cloche.sparse import SAE, load_sae

PROMPT = 28  # tokens of a prompt from held-out text: long enough to have something to foresee


def held_out(run: Run, subject: Subject, count: int) -> list[np.ndarray]:
    """About `count` tokens of a run's held-out text, in batches of windows [batch, length] that the model can read."""
    return held_out_windows(PackedTokens.open(run.path, "validation"), subject.net, count)


def held_out_prompts(run: Run, count: int) -> list[list[int]]:
    """The ids of `count` pieces of a run's held-out text, spread evenly over it; fewer where it is short."""
    tokens = PackedTokens.open(run.path, "validation")
    length = min(PROMPT, len(tokens))
    count = max(1, min(count, len(tokens) // length))
    return [tokens.window(i * (len(tokens) - length) // max(1, count - 1), length).tolist() for i in range(count)]


def open_dictionary(run: Run, name: str) -> SAE:
    """A dictionary of a run. Raises ClocheError naming those that it has."""
    if not (run.path / "dictionaries" / name).is_dir():
        known = ", ".join(dictionaries(run))
        raise DictionaryMissing(
            f"{run.path} has no dictionary {name!r}: "
            + (f"it has {known}." if known else "train one with `cloche sae train`.")
        )
    return load_sae(run.path / "dictionaries" / name)


def dictionaries(run: Run) -> list[str]:
    """The names of a run's dictionaries."""
    return sorted(path.name for path in (run.path / "dictionaries").glob("[!.]*/"))


def others_of(run: Run, site: str | None) -> dict[str, Network]:
    """The networks of the other checkpoints of a run that the text of a route names, by checkpoint."""
    from cloche.glass import load

    named: set[Any] = {place.model for place in Route.parse(site).places} - {""} if site else set()
    return {model: load(run, model).net for model in named}
