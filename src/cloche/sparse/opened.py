"""Reading files that anyone may have made or damaged: bounded before anything is built from them, and named in one sentence."""

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
_LARGEST = 1e12  # of a weight: beyond, products of weights and activations are no numbers
_LARGEST_LOG = 25.0  # of the logarithm of a gain or a threshold
_LOGARITHMS = ("log_gain", "log_threshold", "r_mag")


def opened_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`."""
    _check_file(path, _LARGEST_JSON)
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsInvalid(
            f"{path} is not readable as JSON ({_first(error)}): fetch or save the folder again."
        ) from error
    if not isinstance(stated, dict):
        raise WeightsInvalid(f"{path} holds no JSON object: fetch or save the folder again.")
    return stated


def opened_safetensors(path: Path) -> dict[str, Tensor]:
    _check_file(path, machine_memory())
    try:
        return dict(load_file(path))
    except Exception as error:  # of the header, the system, or the memory
        raise FileUnreadable(f"{path} cannot be read ({_first(error)}): fetch or save the folder again.") from error


def opened_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save: only tensors are read from it, so nothing in it can run, and none that is larger
    than the file."""
    _check_file(path, machine_memory())
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:
            raise ValueError(f"unpacked it has {unpacked:,} bytes, and torch.save packs nothing")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, some of modules not to be named here
        raise FileUnreadable(
            f"{path} cannot be read as tensors alone ({_first(error)}): save the dictionary's state_dict() there."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FolderForeign(
            f"{path} holds something other than named tensors: save the dictionary's state_dict() there."
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
    """`tensors` in float32 where they are exactly those of `shapes` (but for the `optional`), real, finite, and of a size that
    weights can have. Those named in `whole` may be integers."""
    missing, more = sorted(set(shapes) - set(tensors) - set(optional)), sorted(set(tensors) - set(shapes))
    if missing or more:
        raise WeightsInvalid(
            f"{path} {'lacks' if missing else 'holds'} {shown_all(missing or more)}, "
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
    """`tensor` in float32. Raises where it holds anything but real numbers that weights can be."""
    if tensor.is_complex() or not (tensor.is_floating_point() or (whole and tensor.dtype != torch.bool)):
        raise WeightsInvalid(
            f"{name} in {path} has numbers of type {str(tensor.dtype).removeprefix('torch.')}, but weights are real "
            "floating-point numbers: save it as float32."
        )
    found = tensor.float()
    if name.endswith("log_threshold"):  # that of zero is -inf
        found = torch.where(found == -torch.inf, 0.0, found)
    if not torch.isfinite(found).all():
        raise NotFinite(f"{name} in {path} holds NaN or infinite numbers: take an earlier checkpoint of it.")
    most = _LARGEST_LOG if name.endswith(_LOGARITHMS) else _LARGEST
    if found.numel() and float(found.abs().max() if most == _LARGEST else found.max()) > most:
        raise WeightsInvalid(
            f"{name} in {path} holds numbers above {most:g}, with which no activation can be encoded: take an earlier "
            "checkpoint of it."
        )
    return tensor.float()


def number(stated: dict[str, Any], key: str, path: Path) -> float:
    """The finite number that `path` states as `key`."""
    value = stated.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300 or math.isnan(value):
        raise WeightsInvalid(f"{path} states {key} as {shown(value)}, which is no number: save the autoencoder again.")
    return value


def count(stated: dict[str, Any], key: str, path: Path, least: int = 1) -> int:
    """The whole number, `least` or more and below 2^53, that `path` states as `key`."""
    value = number(stated, key, path)
    if value != int(value) or not least <= value < 2**53:
        raise WeightsInvalid(
            f"{path} states {key} as {shown(stated[key])}, but it must be a whole number of {least} or more: save the "
            "autoencoder again."
        )
    return int(value)


def counts(stated: dict[str, Any], key: str, path: Path) -> tuple[int, ...]:
    """The whole numbers above zero that `path` lists as `key`."""
    values = stated.get(key)
    if not isinstance(values, list):
        raise WeightsInvalid(f"{path} states {key} as {shown(values)}, which is no list: save the autoencoder again.")
    return tuple(count({key: value}, key, path) for value in values)


def text(stated: dict[str, Any], key: str, path: Path) -> str | None:
    """The text that `path` states as `key`, or None where it states none."""
    value = stated.get(key)
    if value is not None and not isinstance(value, str):
        raise WeightsInvalid(f"{path} states {key} as {shown(value)}, which is no text: save the autoencoder again.")
    return value


def flag(stated: dict[str, Any], key: str, path: Path) -> bool:
    """What `path` states as `key`, true or false."""
    value = stated.get(key)
    if not isinstance(value, bool):
        raise WeightsInvalid(
            f"{path} states {key} as {shown(value)}, which is neither true nor false: save the autoencoder again."
        )
    return value


def shown_all(names: Iterable[str]) -> str:
    """Names for a sentence, the first few of many."""
    given = list(names)
    more = f" and {len(given) - 8:,} more" if len(given) > 8 else ""
    return ", ".join(name if len(name) <= 60 else shown(name) for name in given[:8]) + more


def _check_file(path: Path, most: float) -> None:
    """Refuses what is no file, or has more than `most` bytes."""
    if not path.is_file():
        raise FileMissing(f"{path} is not a file that is there: fetch or save the folder again.")
    if (size := path.stat().st_size) > most:
        raise FileTooLarge(
            f"{path} has {size:,} bytes, more than the {most:,.0f} that such a file or this machine's memory can have: fetch "
            "or save the folder again."
        )


def _first(error: BaseException) -> str:
    """The first line of an error, and not too much of it."""
    lines = str(error).strip().splitlines()
    told = lines[0] if lines else type(error).__name__
    return told if len(told) <= 160 else f"{told[:160]}…"
