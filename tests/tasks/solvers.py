"""Brute-force solvers that read nothing but the prompt. They share no code with generators and verifiers.

A solver gets the prompt and `spend`, which it calls once per elementary step, and returns every right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

Spend = Callable[[], None]
Solver = Callable[[str, Spend], set[str]]


def solvers() -> dict[str, Solver]:
    """Every solver by the name of its task: the functions `solve_<Task>` of the modules `solvers_*.py` beside this one."""
    modules = [import_module(f"tests.tasks.{path.stem}") for path in sorted(Path(__file__).parent.glob("solvers_*.py"))]
    return {
        name.removeprefix("solve_"): value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith("solve_")
    }
