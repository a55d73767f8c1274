"""A learned dictionary on disk: `dictionary.safetensors` with the atoms, `dictionary.json` with what they are made for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.dictionary import Dictionary
from glasshouse.sparse.store import CARD, WEIGHTS, load_sae

KIND = "atoms"
PICTURE = "atoms.png"


@dataclass(frozen=True)
class Card:
    """What a dictionary is made for: pieces of `sides` (none: rows), each less its mean where `level`; how it was learned."""

    sides: tuple[int, ...] = ()
    level: bool = False
    method: str = ""
    k: int = 0
    signals: int = 0


def save_dictionary(dictionary: Dictionary, folder: str | Path, card: Card = Card()) -> Path:
    """Writes `dictionary` to `folder`, which must not be there yet: complete or not at all."""
    folder = Path(folder)
    if folder.exists():
        raise GlasshouseError(f"{folder} is there already, and nothing is overwritten: choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".writing-{folder.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        tensors = {"atoms": dictionary.atoms.detach().contiguous()}
        if dictionary.bias is not None:
            tensors["bias"] = dictionary.bias.detach().contiguous()
        save_file(tensors, fresh / WEIGHTS)
        stated = {
            "format": 1,
            "kind": KIND,
            "atoms": dictionary.size,
            "width": dictionary.width,
            "sides": list(card.sides),
            "level": card.level,
            "method": card.method,
            "k": card.k,
            "signals": card.signals,
            "torch": torch.__version__,
            "sha256": _sha256(fresh / WEIGHTS),
        }
        (fresh / CARD).write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
        for path in (fresh / WEIGHTS, fresh / CARD):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def load_dictionary(folder: str | Path) -> tuple[Dictionary, Card]:
    """The dictionary saved in `folder` and its card; of a saved autoencoder the decoder, in the activations' units.

    Raises where a file is missing, damaged, or disagrees with its description.
    """
    folder = Path(folder)
    stated = _stated(folder)
    if stated["kind"] != KIND:
        sae = load_sae(folder)
        return sae.dictionary, Card(method=stated["kind"], k=stated.get("k", 0))
    if _sha256(folder / WEIGHTS) != stated["sha256"]:
        raise GlasshouseError(
            f"{folder / WEIGHTS} is not the file {CARD} describes (its sha256 differs): it is half-written or damaged; "
            "learn the dictionary again."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        dictionary = Dictionary(tensors["atoms"], tensors.get("bias"))
    except (SafetensorError, KeyError) as error:
        raise GlasshouseError(f"{folder / WEIGHTS} cannot be read ({error}): learn the dictionary again.") from error
    card = Card(tuple(stated["sides"]), stated["level"], stated["method"], stated["k"], stated["signals"])
    return dictionary, card


def _stated(folder: Path) -> dict[str, Any]:
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise GlasshouseError(
                f"{folder} has no {name}, so it holds no dictionary: give a folder that `glasshouse sparse learn` wrote."
            )
    try:
        stated = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise GlasshouseError(
            f"{folder / CARD} is not readable as JSON ({error}): learn the dictionary again."
        ) from None
    wanted = ("kind", "sides", "level", "method", "k", "signals", "sha256")
    if (
        not isinstance(stated, dict)
        or "kind" not in stated
        or (stated["kind"] == KIND and not stated.keys() >= set(wanted))
    ):
        raise GlasshouseError(f"{folder / CARD} does not state {', '.join(wanted)}: learn the dictionary again.")
    return stated


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
