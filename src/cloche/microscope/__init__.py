"""The microscope: a local web app over a run folder, live or finished, and the report that needs no server.

`serve` opens the app, `make_app` hands it to a test or to another server, `write_report` writes `report.html`. None
imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloche.microscope.app import make_app
    from cloche.microscope.report import write_report
    from cloche.microscope.serving.server import serve

__all__ = ["make_app", "serve", "write_report"]

# Lazy, because the worker is a module of this package too and has no use for a web server.
_HOMES = {"make_app": "app", "serve": "serving.server", "write_report": "report"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cloche.microscope' has no attribute {name!r}")
    return getattr(import_module(f"cloche.microscope.{_HOMES[name]}"), name)
