"""Recognising the library that saved a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cloche.sparse.saes.exchange.dictionary_learning import read_dictionary_learning
from cloche.sparse.saes.exchange.saelens import read_saelens
from cloche.sparse.saes.module import SAE

_FORMATS: tuple[tuple[tuple[str, str], Callable[[Path], SAE]], ...] = (
    (("cfg.json", "sae_weights.safetensors"), read_saelens),
    (("config.json", "ae.pt"), read_dictionary_learning),
)


def foreign_reader(folder: Path) -> Callable[[Path], SAE] | None:
    """Reader for `folder`, chosen by the names of its files; None if no other library saved it."""
    return next((read for names, read in _FORMATS if all((folder / name).is_file() for name in names)), None)
