"""Reading another library's files, and saying what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cloche.errors import ClocheError


def opened_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ClocheError(f"{path} is not readable as JSON ({error}): fetch or save the folder again.") from error
    if not isinstance(stated, dict):
        raise ClocheError(f"{path} holds no JSON object: fetch or save the folder again.")
    return stated


def opened_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ClocheError(f"{path} cannot be read ({error}): fetch or save the folder again.") from error


def opened_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save: only tensors are read from it, so nothing in it can run."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, some of modules not to be named here
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClocheError(
            f"{path} cannot be read as tensors alone ({first}): save the dictionary's state_dict() there."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ClocheError(f"{path} holds something other than named tensors: save the dictionary's state_dict() there.")
    return found


def checked(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, Tensor]:
    """`tensors` in float32 where they are exactly those of `shapes`, and finite."""
    differ = sorted(set(tensors) ^ set(shapes))
    if differ:
        missing = [name for name in differ if name in shapes]
        raise ClocheError(
            f"{path} {'lacks' if missing else 'holds'} {', '.join(missing or differ)}, "
            f"{'which its description needs' if missing else 'which nothing here understands'}: "
            "restore both files of one autoencoder, or save it with the library that made it."
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ClocheError(
                f"{name} in {path} has shape {list(tensors[name].shape)}, but its description says {list(shape)}: restore "
                "both files of one autoencoder."
            )
        if not torch.isfinite(tensors[name]).all():
            raise ClocheError(f"{name} in {path} holds NaN or infinite numbers: take an earlier checkpoint of it.")
    return {name: tensor.float() for name, tensor in tensors.items()}


def number(stated: dict[str, Any], key: str, path: Path) -> float:
    """The number that `path` states as `key`."""
    value = stated.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ClocheError(f"{path} states {key} as {value!r}, which is no number: save the autoencoder again.")
    return value
