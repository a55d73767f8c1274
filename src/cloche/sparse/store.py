"""Dictionaries on disk: `dictionary.safetensors` holds the weights and `dictionary.json` describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cloche.errors import ClocheError, FileDamaged, FolderForeign
from cloche.files import recover, sha256_of, writing_folder
from cloche.sparse.untrusted import read_json, read_safetensors

WEIGHTS, CARD = "dictionary.safetensors", "dictionary.json"


def write_folder(folder: Path, tensors: dict[str, Tensor], card: Mapping[str, Any]) -> Path:
    """Writes weights and card atomically. Replaces a dictionary that is already there; raises if the folder holds anything
    else."""
    if folder.exists() and not _is_free(folder):
        raise FolderForeign(f"{folder} contains something other than a dictionary: save under another name.")
    with writing_folder(folder, replace=True) as fresh:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh / WEIGHTS)
        stated = {"format": 1, **card, "torch": torch.__version__, "sha256": sha256_of(fresh / WEIGHTS)}
        (fresh / CARD).write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
    return folder


def _is_free(folder: Path) -> bool:
    """Whether a folder is empty or holds only a dictionary."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"a file"}
    if names != {WEIGHTS, CARD}:
        return not names
    try:
        read_card(folder)
    except ClocheError:
        return False
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """The contents of dictionary.json in `folder`. Raises if a file is missing or unreadable, or does not state its kind."""
    if not folder.exists():
        recover(folder.parent)  # killed while it was being replaced
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise FileDamaged(
                f"{folder} has no {name}, so its dictionary is missing or half-written: train it again, or give the "
                "folder of a complete one."
            )
    path = folder / CARD
    card = read_json(path)
    require(card, ("format", "kind", "sha256"), path)
    return card


def require(card: Any, wanted: Iterable[str], path: Path) -> None:
    """Raises if a card lacks any of the keys `wanted`."""
    missing = [key for key in wanted if not isinstance(card, dict) or key not in card]
    if missing:
        raise FileDamaged(
            f"{path} does not state {', '.join(missing)}: it is half-written; train the dictionary again."
        )


def read_weights(folder: Path, card: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that belong to a card. Raises if their sha256 is not the one it states."""
    if sha256_of(folder / WEIGHTS) != card["sha256"]:
        raise FileDamaged(
            f"{folder / WEIGHTS} is not the file that {CARD} describes (its sha256 differs): it is half-written or damaged; "
            "train the dictionary again."
        )
    return read_safetensors(folder / WEIGHTS)
