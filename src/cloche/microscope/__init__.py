"""The microscope: a local web app over a run folder, live or finished, and the report that needs no server.

`serve` opens the app, `make_app` returns it for a test or another server, `write_report` writes `report.html`. None
of them imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.microscope.app import make_app
    from cloche.microscope.report import write_report
    from cloche.microscope.serving.server import serve

__all__ = ["make_app", "serve", "write_report"]

__getattr__ = lazy(__name__)
