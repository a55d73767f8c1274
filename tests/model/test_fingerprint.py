"""Plans whose applied functions differ have hashes that differ, and the same plan has the same hash again."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cloche.model import Site
from cloche.model.sites.fingerprint import fingerprint
from cloche.model.sites.plan import make_plan

FACTOR = 2.0


def plan_hash(*functions: Any) -> str:
    return make_plan([], [Site("z", 0).apply(function) for function in functions])[0].hash


def times(factor: Any) -> Callable[..., Any]:
    return lambda x: x * factor


def named(x: Any) -> Any:
    return x * FACTOR


def calls_another(x: Any) -> Any:
    return named(x) + 1


class Callback:
    def __call__(self, x: Any) -> Any:
        return x


def linear(seed: int) -> nn.Linear:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    return layer


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "two lambdas": (lambda x: x * 2, lambda x: x * 3),
    "operations": (lambda x: x + 2, lambda x: x * 2),
    "attributes": (lambda x: x.sin(), lambda x: x.cos()),
    "closures": (times(2), times(3)),
    "kinds in closures": (times(1), times(1.0)),
    "tensors in closures": (times(torch.ones(3)), times(torch.arange(3.0))),
    "shapes in closures": (times(torch.ones(4)), times(torch.ones(2, 2))),
    "arrays in closures": (times(np.ones(3)), times(np.zeros(3))),
    "modules in closures": (times(linear(0)), times(linear(1))),
    "functions in closures": (times(times(1)), times(times(2))),
    "defaults": (lambda x, by=1: x * by, lambda x, by=2: x * by),
    "inner functions": (lambda x: (lambda y: y + 1)(x), lambda x: (lambda y: y + 2)(x)),
    "partials": (functools.partial(torch.mul, other=1), functools.partial(torch.mul, other=2)),
    "of a library": (torch.relu, torch.sigmoid),
    "numpy's": (np.sin, np.cos),
    "cached ones": (functools.cache(times(1)), functools.cache(times(2))),
    "bound ones of C": (torch.ones(2).mul, torch.zeros(2).mul),
    "methods": (Callback().__call__, Callback().__call__),
    "objects": (Callback(), Callback()),
    "objects in closures": (times(Callback()), times(Callback())),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_two_functions_are_two(case: str) -> None:
    one, other = DIFFERENT[case]
    assert plan_hash(one) != plan_hash(other)
    assert plan_hash(one) == plan_hash(one)
    assert plan_hash(one, other) != plan_hash(other, one)


SAME: dict[str, tuple[Any, Any]] = {
    "made twice": (times(2), times(2)),
    "equal tensors": (times(torch.ones(3)), times(torch.ones(3))),
    "equal modules": (times(linear(0)), times(linear(0))),
    "equal containers": (times({"a": [1, (2.0, None)]}), times({"a": [1, (2.0, None)]})),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_made_twice_is_one(case: str) -> None:
    one, other = SAME[case]
    assert one is not other and plan_hash(one) == plan_hash(other)


def test_a_global_that_it_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_hash(named), plan_hash(calls_another)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 5.0)
    after = plan_hash(named), plan_hash(calls_another)
    assert before[0] != after[0] and before[1] != after[1]


def test_one_that_calls_itself() -> None:
    def countdown(n: int) -> int:
        return 0 if n == 0 else countdown(n - 1)

    assert fingerprint(countdown) == fingerprint(countdown)


def test_the_same_in_another_process() -> None:
    code = "import torch\nfrom cloche.model.sites.fingerprint import fingerprint\n"
    code += "w = torch.ones(2)\ndef f(x):\n    return x * w + 3\n"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}print(fingerprint(f))"], capture_output=True, text=True, check=True
    )
    here: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<string>", "exec"), here)
    assert ran.stdout.strip() == fingerprint(here["f"]) and len(fingerprint(here["f"])) == 64
