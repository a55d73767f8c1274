"""Passes through torch.compile, one graph for each plan."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import torch

from cloche.errors import ArgumentInvalid

Program = Callable[..., Any]


class Compiled:
    """The compiled passes of one network. They refer to its weights, so a copy of the network starts without them."""

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}  # by what is compiled, its plan and its backend

    def __call__(self, program: Program, what: tuple[Any, ...], backend: Any) -> Program:
        """`program` through torch.compile, in one graph; compiled once for each (kind, plan, ...) of `what` and each
        backend."""
        backend = "inductor" if backend is True else backend
        if isinstance(backend, str) and backend not in torch.compiler.list_backends(exclude_tags=()):
            raise ArgumentInvalid(f"{backend!r} is no backend of torch.compile; compile=True takes its usual one.")
        key = (*what, backend)
        if key not in self._programs:
            named = _with_own_code(cast(FunctionType, program), f"{what[0]}_{what[1].hash}_{next(_numbers)}")
            self._programs[key] = torch.compile(named, fullgraph=True, backend=backend)
        return self._programs[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"_programs": {}}


_numbers = itertools.count()


def _with_own_code(function: FunctionType, name: str) -> FunctionType:
    """The same function with a code object of its own.

    torch.compile keeps its cache, its limit of recompilations and its record of dynamic integers per code object; if
    plans shared one, a second plan would find its layer numbers dynamic, and a ninth would be refused.
    """
    code = function.__code__.replace(co_name=name)
    return FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
