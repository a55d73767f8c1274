"""A fingerprint of a function, so that a plan's hash distinguishes two functions of the same name."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(function: Callable[..., Any]) -> str:
    """64 hex digits of a hash of the function's code, its closure, its defaults and the globals it uses.

    The same in every process of one Python version for functions of plain values, tensors, arrays, modules and other such
    functions. Objects of other kinds count by identity: two are never confused within one process, but the hash may
    differ in another.
    """
    digest = hashlib.sha256()
    _add(digest, function, set())
    return digest.hexdigest()


def _add(digest: Any, value: Any, seen: set[int]) -> None:
    """Add a value to the digest, its kind first; `seen` are the containers and functions it is part of."""
    digest.update(f"{type(value).__module__}.{type(value).__qualname__}:".encode())
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest.update(repr(value).encode())
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, np.ufunc):
        digest.update(value.__name__.encode())
    elif id(value) in seen:
        digest.update(b"again")
    elif isinstance(value, type) or _of_a_library(value):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    else:
        for part in _parts(value):
            _add(digest, part, seen | {id(value)})


def _of_a_library(value: Any) -> bool:
    """Whether its name identifies it: a function written in C, or one of an installed module."""
    module = getattr(value, "__module__", None)
    if isinstance(value, FunctionType):
        return isinstance(module, str) and module.split(".")[0] in ("torch", "numpy") and "<" not in value.__qualname__
    return isinstance(value, BuiltinFunctionType) and isinstance(module, str)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        named = [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
        return [value.__code__, cells, value.__defaults__, value.__kwdefaults__, named]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_varnames, value.co_consts]
    if hasattr(value, "__wrapped__"):
        return [value.__wrapped__]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, nn.Module):
        return [str(value), dict(value.state_dict())]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return [item for pair in value.items() for item in pair]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if type(value).__name__ == "module":
        return [value.__name__]
    return [id(value)]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
