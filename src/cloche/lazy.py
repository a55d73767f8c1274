"""Lazy packages: names are imported on first use (PEP 562), and listed once.

A package's `__init__.py` imports its public names under `if TYPE_CHECKING:`, where editors, type checkers and `lazy` read
them: importing the package, or one module of it, loads nothing else.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy(package: str) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package, and gives the package a `__dir__`. Written as the last line of its
    `__init__.py`:

        __getattr__ = lazy(__name__)

    Sub-packages are imported too. Raises AttributeError for any other name that is not imported under its `if
    TYPE_CHECKING:`.
    """
    module = sys.modules[package]
    homes: dict[str, tuple[str, str]] = {}

    def fetch(name: str) -> Any:
        if not homes and not name.startswith("__"):
            homes.update(_homes(inspect.getsource(module)))
        if name not in homes:
            if (Path(str(module.__file__)).parent / name / "__init__.py").is_file():
                return import_module(f"{package}.{name}")
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = homes[name]
        value = getattr(import_module(home), original)
        setattr(module, name, value)
        return value

    module.__dir__ = lambda: sorted({*vars(module), *vars(module).get("__all__", ())})  # type: ignore[method-assign]
    return fetch


def _homes(source: str) -> dict[str, tuple[str, str]]:
    """{name: (module, its name there)} of the imports under `if TYPE_CHECKING:`."""
    return {
        alias.asname or alias.name: (str(statement.module), alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
