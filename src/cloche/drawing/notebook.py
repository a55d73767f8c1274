"""Findings in a notebook: self-contained static HTML, or the microscope's modules if anywidget is installed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cloche.drawing.markup import Markup, stylesheet, tag
from cloche.files import to_json

STYLE = Path(__file__).with_name("panels.css")
COLOURS = Path(__file__).with_name("colours.css")  # light colours: a notebook does not report its theme
MODULES = Path(__file__).parents[1] / "microscope" / "static"  # read as files; the microscope is not imported
_IMPORT = re.compile(r"""(from\s+)'(\.[^']+)'""")
_START = """
import { html, render as draw } from 'HTM';
import { Found } from 'PANEL';
export default { render({ model, el }) {
  el.classList.add('cloche');
  const style = document.createElement('style');
  style.textContent = model.get('style');
  const place = document.createElement('div');
  el.replaceChildren(style, place);
  draw(html`<p>${model.get('summary')}</p><${Found} found=${model.get('record')} />`, place);
} };
"""


def page(summary: str, body: Markup) -> str:
    """One finding as HTML with its own style."""
    return tag("div", stylesheet(style()), tag("p", summary), body, class_="cloche").html


@cache
def style() -> str:
    """The panels' style, limited to elements inside `.cloche`."""
    return f".cloche {{ {COLOURS.read_text(encoding='utf-8')}\n{STYLE.read_text(encoding='utf-8')} }}"


@cache
def modules(path: Path = MODULES / "panels" / "panel.js") -> str:
    """One of the microscope's modules as a `data:` URL that contains its imports, so that it needs no server."""
    text = path.read_text(encoding="utf-8")
    text = _IMPORT.sub(lambda match: f"{match[1]}'{modules((path.parent / match[2]).resolve())}'", text)
    return "data:text/javascript;base64," + base64.b64encode(text.encode()).decode()


def script() -> str:
    """Source of the module that anywidget runs."""
    return _START.replace("HTM", modules(MODULES / "vendor" / "htm-preact.js")).replace("PANEL", modules())


def mime_bundle(record: Mapping[str, Any], static: dict[str, str]) -> Any:
    """`static`, preceded by the interactive form if anywidget is installed."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return static

    class Panels(anywidget.AnyWidget):
        _esm = script()
        record = traitlets.Dict().tag(sync=True)
        summary = traitlets.Unicode().tag(sync=True)
        style = traitlets.Unicode().tag(sync=True)

    shown = {key: record[key] for key in ("figures", "null", "panels")}
    widget = Panels(record=json.loads(to_json(shown)), summary=static["text/plain"], style=style())
    bundle = widget._repr_mimebundle_()
    data, about = bundle if isinstance(bundle, tuple) else (bundle, {})
    return ({**(data or {}), **static}, about) if data else static
