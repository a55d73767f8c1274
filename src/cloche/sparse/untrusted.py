"""Reads files from untrusted sources: sizes are checked before anything is built from them, and errors name the file."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cloche.errors import FileMissing, FileTooLarge, FileUnreadable, FolderForeign, NotFinite, WeightsInvalid, shown
from cloche.memory import machine_memory

_LARGEST_JSON = 16 << 20  # bytes; descriptions have a few thousand
_LARGEST = 1e12  # of a weight: above, products of weights and activations overflow
_LARGEST_LOG = 25.0  # of the logarithm of a gain or a threshold
_LOGARITHMS = ("log_gain", "log_threshold", "r_mag")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`."""
    _check_file(path, _LARGEST_JSON)
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsInvalid(
            f"{path} is not readable as JSON ({_first(error)}): fetch or save the folder again."
        ) from error
    if not isinstance(stated, dict):
        raise WeightsInvalid(f"{path} does not contain a JSON object: fetch or save the folder again.")
    return stated


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`."""
    _check_file(path, machine_memory())
    try:
        return dict(load_file(path))
    except Exception as error:  # of the header, the system, or the memory
        raise FileUnreadable(f"{path} cannot be read ({_first(error)}): fetch or save the folder again.") from error


def read_torch(path: Path) -> dict[str, Tensor]:
    """Tensors of a file written by torch.save. Only tensors are read, so no code can run, and none may be larger than the
    file."""
    _check_file(path, machine_memory())
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:
            raise ValueError(f"unpacked it has {unpacked:,} bytes, but torch.save does not compress")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, some of them private
        raise FileUnreadable(
            f"{path} cannot be read as tensors alone ({_first(error)}): save the dictionary's state_dict() there."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FolderForeign(
            f"{path} contains something other than named tensors: save the dictionary's state_dict() there."
        )
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.numel() * tensor.element_size() > size:
            raise WeightsInvalid(
                f"{shown(name)} in {path} is sparse, quantised, or larger than the file: save plain tensors there."
            )
    return {str(name): tensor for name, tensor in found.items()}


def checked(
    tensors: dict[str, Tensor],
    shapes: dict[str, tuple[int, ...]],
    path: Path,
    *,
    optional: Collection[str] = (),
    whole: Collection[str] = (),
) -> dict[str, Tensor]:
    """Returns `tensors` in float32. Raises unless they are exactly those of `shapes` (`optional` ones may be missing),
    real, finite, and no larger than weights can be. Those named in `whole` may be integers."""
    missing, more = sorted(set(shapes) - set(tensors) - set(optional)), sorted(set(tensors) - set(shapes))
    if missing or more:
        raise WeightsInvalid(
            f"{path} {'lacks' if missing else 'holds'} {shown_names(missing or more)}, "
            f"{'which its description needs' if missing else 'which cloche does not support'}: "
            "restore both files of one autoencoder, or save it with the library that made it."
        )
    for name, shape in shapes.items():
        if name in tensors and tuple(tensors[name].shape) != shape:
            raise WeightsInvalid(
                f"{name} in {path} has shape {shown(list(tensors[name].shape))}, but its description says {list(shape)}: "
                "restore both files of one autoencoder."
            )
    return {name: real(name, tensor, path, name in whole) for name, tensor in tensors.items()}


def real(name: str, tensor: Tensor, path: Path, whole: bool = False) -> Tensor:
    """Returns `tensor` in float32. Raises unless it holds finite real numbers no larger than weights can be."""
    if tensor.is_complex() or not (tensor.is_floating_point() or (whole and tensor.dtype != torch.bool)):
        raise WeightsInvalid(
            f"{name} in {path} has type {str(tensor.dtype).removeprefix('torch.')}, but weights must be real floating-point "
            "numbers: save it as float32."
        )
    found = tensor.float()
    if name.endswith("log_threshold"):  # the logarithm of zero is -inf
        found = torch.where(found == -torch.inf, 0.0, found)
    if not torch.isfinite(found).all():
        raise NotFinite(f"{name} in {path} contains NaN or infinity: use an earlier checkpoint of it.")
    most = _LARGEST_LOG if name.endswith(_LOGARITHMS) else _LARGEST
    if found.numel() and float(found.abs().max() if most == _LARGEST else found.max()) > most:
        raise WeightsInvalid(
            f"{name} in {path} contains numbers above {most:g}, too large to encode activations with: use an earlier "
            "checkpoint of it."
        )
    return tensor.float()


def number(stated: dict[str, Any], key: str, path: Path) -> float:
    """The finite number that `path` states as `key`."""
    value = stated.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300 or math.isnan(value):
        raise WeightsInvalid(
            f"{path} states {key} as {shown(value)}, which is not a number: save the autoencoder again."
        )
    return value


def count(stated: dict[str, Any], key: str, path: Path, least: int = 1) -> int:
    """The integer that `path` states as `key`: at least `least` and below 2^53."""
    value = number(stated, key, path)
    if value != int(value) or not least <= value < 2**53:
        raise WeightsInvalid(
            f"{path} states {key} as {shown(stated[key])}, but it must be an integer of at least {least}: save the "
            "autoencoder again."
        )
    return int(value)


def counts(stated: dict[str, Any], key: str, path: Path) -> tuple[int, ...]:
    """The positive integers that `path` lists as `key`."""
    values = stated.get(key)
    if not isinstance(values, list):
        raise WeightsInvalid(
            f"{path} states {key} as {shown(values)}, which is not a list: save the autoencoder again."
        )
    return tuple(count({key: value}, key, path) for value in values)


def text(stated: dict[str, Any], key: str, path: Path) -> str | None:
    """The text that `path` states as `key`, or None if it states none."""
    value = stated.get(key)
    if value is not None and not isinstance(value, str):
        raise WeightsInvalid(f"{path} states {key} as {shown(value)}, which is not text: save the autoencoder again.")
    return value


def flag(stated: dict[str, Any], key: str, path: Path) -> bool:
    """The boolean that `path` states as `key`."""
    value = stated.get(key)
    if not isinstance(value, bool):
        raise WeightsInvalid(
            f"{path} states {key} as {shown(value)}, which is neither true nor false: save the autoencoder again."
        )
    return value


def shown_names(names: Iterable[str]) -> str:
    """Names joined for an error message; of many, the first few and a count."""
    given = list(names)
    more = f" and {len(given) - 8:,} more" if len(given) > 8 else ""
    return ", ".join(name if len(name) <= 60 else shown(name) for name in given[:8]) + more


def _check_file(path: Path, most: float) -> None:
    """Raises if `path` is not a file, or has more than `most` bytes."""
    if not path.is_file():
        raise FileMissing(f"There is no file {path}: fetch or save the folder again.")
    if (size := path.stat().st_size) > most:
        raise FileTooLarge(
            f"{path} has {size:,} bytes, above the {most:,.0f} allowed for such a file or this machine's memory: fetch or save "
            "the folder again."
        )


def _first(error: BaseException) -> str:
    """The first line of an error, at most 160 characters."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 160 else f"{line[:160]}…"
