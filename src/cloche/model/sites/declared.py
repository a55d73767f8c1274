"""Declarations of a module's sites: the axes of each, with the sizes that do not depend on the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloche.errors import SiteUnsuitable, shown

NAME = re.compile(r"[a-zA-Z]\w*")


@dataclass(frozen=True)
class DeclaredSite:
    """One site of a module. `each_token` and `each_pair` make the usual ones.

    sizes: the axes in order, with their sizes; None if it depends on the prompt.
    view_of: the site to edit instead of this one, which is computed only to be saved.

    >>> from cloche.model.sites import each_token
    >>> each_token(width=32).sizes
    {'batch': None, 'position': None, 'width': 32}
    """

    sizes: Mapping[str, int | None]
    view_of: str | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.sizes)


Declarations = dict[str, DeclaredSite]


def each_token(view_of: str | None = None, **sizes: int) -> DeclaredSite:
    """A site with a value for each token: [batch, position, *sizes].

    >>> from cloche.model.sites import each_token
    >>> each_token(head=4, head_size=8).axes
    ('batch', 'position', 'head', 'head_size')
    """
    return DeclaredSite({"batch": None, "position": None, **sizes}, view_of)


def each_pair(head: int) -> DeclaredSite:
    """A site with a value for each query and key of each head: [batch, head, query, key].

    >>> from cloche.model.sites import each_pair
    >>> list(each_pair(head=4).sizes)
    ['batch', 'head', 'query', 'key']
    """
    return DeclaredSite({"batch": None, "head": head, "query": None, "key": None})


def joined(where: str, *parts: Declarations) -> Declarations:
    """The sites of several modules, in the order given. Raises ClocheError where two declare one name."""
    sites: Declarations = {}
    for part in parts:
        for name, declared in part.items():
            if name in sites:
                raise SiteUnsuitable(
                    f"Two modules of {where} declare the site {name!r}, which would be ambiguous; rename one."
                )
            sites[name] = declared
    return sites


def check_declared(name: str, declared: DeclaredSite, where: str) -> None:
    """Raise ClocheError for a declaration that no plan could use."""
    if not NAME.fullmatch(name):
        raise SiteUnsuitable(f"{where} declares a site {name!r}; a site's name is a word such as conv_out.")
    axes = declared.axes
    if axes[:1] != ("batch",) or ("position" in axes) == ("query" in axes):
        raise SiteUnsuitable(
            f"{where} declares the site {name} with the axes {', '.join(axes)}; the first is batch, and one position or query."
        )
    for axis, size in declared.sizes.items():
        if size is not None and (type(size) is not int or size < 1):
            raise SiteUnsuitable(
                f"{where} declares the site {name} with {shown(size)} along {axis}; a size is a whole number above zero, or "
                "None where it depends on the input."
            )
