"""Whether a config speaks of the weights beside it, asked before anything of its sizes is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cloche.errors import OutOfMemory, WeightsInvalid, shown
from cloche.memory import machine_memory
from cloche.model.bodies.body import Body
from cloche.model.lm import LM
from cloche.model.mixers.masks import Mask
from cloche.model.positions.encodings import Position
from cloche.part import Part

DEPTHS = ("num_hidden_layers", "n_layer")
FAR = 16  # times the largest axis of any tensor: sizes beyond are refused here, nearer ones by the shapes they give
MANY = 50_000  # parts of layers (experts) that are built without asking whether any tensor has an axis of so many


def check_layers(config: dict[str, Any], tensors: int, folder: Path) -> None:
    """Raise for more layers than there are tensors: a list with an entry per layer is made on reading a config."""
    for name in DEPTHS:
        depth = config.get(name)
        if isinstance(depth, int) and depth > tensors:
            raise WeightsInvalid(
                f"{folder / 'config.json'}: {name} = {shown(depth)}, and the weights are {tensors:,} tensors; nothing "
                "was loaded."
            )


def check_sizes(spec: LM, tensors: Mapping[str, Any], folder: Path) -> None:
    """Raise for a tree that is larger than its weights by far. tensors: anything by name that has a `shape`."""
    axes = {axis for tensor in tensors.values() for axis in tensor.shape}
    largest, depth = max(axes, default=0), 1
    for part in _parts(spec):
        for name in part.counts:
            count, said = getattr(part, name), f"{type(part).__name__}({name}={getattr(part, name):,})"
            if isinstance(part, Body):
                depth = count
                if depth > len(tensors):
                    _refuse(folder, said, f"are {len(tensors):,} tensors")
            elif depth * count > MANY and count not in axes:
                _refuse(folder, said, "have no axis of so many")
        if not type(part).__module__.startswith("cloche."):
            continue  # what its whole numbers mean is not known
        for field in dataclasses.fields(part):  # type: ignore[arg-type]
            size = getattr(part, field.name)
            if type(size) is int and size > FAR * largest:
                _refuse(folder, f"{type(part).__name__}({field.name}={size:,})", f"have no axis beyond {largest:,}")


def check_memory(numbers: int, each: int, folder: Path) -> None:
    """Raise for so many numbers of `each` bytes as no machine of this memory can hold: it would end without a word."""
    memory = machine_memory()
    if numbers * each > memory:
        raise OutOfMemory(
            f"{folder} has {numbers:,} parameters, which take {numbers * each / 1e9:,.1f} GB in memory, and this machine has "
            f"{memory / 1e9:,.1f} GB: load it with a smaller dtype, on a larger machine, or choose a smaller model."
        )


def _refuse(folder: Path, asked: str, found: str) -> None:
    raise WeightsInvalid(
        f"{folder / 'config.json'} says {asked}, and the weights beside it {found}; nothing was loaded."
    )


def _parts(part: Part) -> Iterator[Part]:
    """Every part of a tree, without those whose whole numbers are no sizes of tensors."""
    if isinstance(part, Mask | Position):
        return
    yield part
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Part):
                yield from _parts(inner)
