"""HTML in which escaping cannot be forgotten: text gets into a page only through `tag`, which escapes it.

A `Markup` is not a string. Adding it to one raises, and in an f-string it becomes text that `tag` escapes like any other, so a
mistake shows as visible angle brackets in the page and never as an element.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

# The report is one page that contains its style: it may style itself and show its own images, nothing else.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
VOID = {"meta", "img", "br"}
LINKS = {"src", "href"}
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\ufffd")


class Markup:
    """A piece of HTML. Only `tag`, `join` and `stylesheet` make one.

    >>> from cloche.drawing import tag
    >>> tag("p", "a & b")
    Markup('<p>a &amp; b</p>')
    """

    __slots__ = ("_html",)

    def __init__(self, html: str) -> None:
        self._html = html

    @property
    def html(self) -> str:
        return self._html

    def __bool__(self) -> bool:
        return bool(self._html)

    def __repr__(self) -> str:
        return f"Markup({self._html!r})"


Child: TypeAlias = "Markup | str | int | float | Iterable[Child] | None"
Value: TypeAlias = "str | int | float | bool | None"
EMPTY = Markup("")


def text(value: object) -> str:
    """Escaped text: the only place where text of a run folder becomes HTML. Control characters and lone surrogates,
    which HTML cannot contain, become U+FFFD and question marks."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
    return escape(plain, quote=False).replace('"', "&quot;")  # attributes are always in double quotes


def tag(name: str, /, *children: Child, **attributes: Value) -> Markup:
    """<name attribute="value">children</name>. Attribute values and children other than `Markup` are escaped; None is
    left out; floats, which are coordinates, are rounded to two digits. `class_` is class, `aria_label` is aria-label.
    Raises ValueError for scripts and links.

    >>> from cloche.drawing import tag
    >>> tag("p", tag("b", "1"), " < 2", class_="note").html
    '<p class="note"><b>1</b> &lt; 2</p>'
    """
    if name in ("script", "iframe", "object", "embed", "link", "base", "form"):
        raise ValueError(f"a page of the report has no <{name}>")
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    inner = "" if name in VOID else join(*children).html + f"</{name}>"
    return Markup(f"<{name}{given}>{inner}")


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if name.startswith("on") or (name in LINKS and not str(value).startswith("data:image/png;base64,")):
        raise ValueError(f"a page of the report has no attribute {name}={value!r}")
    shown = f"{round(value, 2):g}" if isinstance(value, float) else "" if value is True else value
    return f' {name}="{text(shown)}"'


def join(*children: Child) -> Markup:
    """Concatenates markup and texts; texts are escaped.

    >>> from cloche.drawing import join, tag
    >>> join("a < b", tag("br"), 3).html
    'a &lt; b<br>3'
    """
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child.html)
        elif isinstance(child, str | int | float):
            parts.append(text(child))
        elif child is not None:
            parts.append(join(*child).html)
    return Markup("".join(parts))


def stylesheet(style: str) -> Markup:
    """A style element. It is not escaped: only for this package's own stylesheets, never for text of a run."""
    return Markup(f"<style>\n{style}</style>")


def document(title: str, style: str, *body: Child) -> str:
    """A whole page as a string. `style` is this package's own stylesheet.

    >>> from cloche.drawing import document, tag
    >>> page = document("A run", "p { color: green }", tag("p", "It grew."))
    >>> page.startswith("<!doctype html>"), "<main><p>It grew.</p></main>" in page
    (True, True)
    """
    sheet = stylesheet(style)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=REPORT_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="cloche"),  # marks a page that `cloche report` may overwrite
        tag("title", title),
        sheet,
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en').html}\n"
